//! Writes an overview as text for a terminal, for `mb status` and `mb top`. Pure: values in, text out.

use std::fmt::Write as _;

use crate::cli::output::escape;
use crate::model::clock;
use crate::observe::overview::{LagView, LatencyView, Overview, RunningView, Verdict};

/// How many partitions are listed.
const PARTITIONS: usize = 8;
/// How many ticks are listed, and how many runs.
const NEWEST: usize = 5;

/// The overview as lines of up to `width` characters.
pub fn picture(overview: &Overview, width: usize) -> String {
    let mut text = String::new();
    for line in lines(overview) {
        let line = escape(&line);
        let shown: String = if line.chars().count() > width {
            line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
        } else {
            line.into_owned()
        };
        text.push_str(shown.trim_end());
        text.push('\n');
    }
    text
}

fn lines(overview: &Overview) -> Vec<String> {
    let mut lines = vec![
        format!(
            "mb {} (pid {}), up {}: topic {}, group {}",
            overview.version,
            overview.pid,
            seconds((overview.now_ms - overview.started_ms) as f64 / 1000.0),
            overview.topic,
            overview.group
        ),
        overview.broker.clone(),
        overview.verdict.headline.clone(),
    ];
    let Verdict { headline, advice, reasons, .. } = &overview.verdict;
    lines.extend(advice.iter().map(|advice| format!("  > {advice}")));
    let others = reasons.iter().filter(|reason| !headline.contains(&reason.detail));
    lines.extend(others.map(|reason| format!("  ! {}", reason.detail)));
    if overview.hold.is_some() {
        lines.push(
            "  mb retry-now tries the step at once, mb give-up keeps what is held as dead letters"
                .into(),
        );
    }
    if overview.sensor.paused {
        lines.push("  mb resume lets ticks begin by themselves again".into());
    }
    lines.push(String::new());
    lines.extend(figures(overview));
    lines.push(String::new());
    for worker in &overview.workers {
        lines.push(format!(
            "worker {:<3} {}",
            worker.worker,
            worker.run.as_ref().map_or("-".into(), running)
        ));
    }
    if !overview.lag.top.is_empty() {
        lines.push(String::new());
        lines.push(format!(
            "{:<10}{:>14}{:>14}{:>14}{:>10}",
            "PARTITION", "COMMITTED", "END", "LAG", "BEHIND"
        ));
    }
    for of in overview.lag.top.iter().take(PARTITIONS) {
        lines.push(format!(
            "{:<10}{:>14}{:>14}{:>14}{:>10}",
            of.partition,
            of.committed.map_or("-".to_owned(), |offset| offset.to_string()),
            of.end,
            of.lag,
            of.lag_s.map_or("-".to_owned(), seconds)
        ));
    }
    let more = overview.lag.partitions.saturating_sub(PARTITIONS as u64);
    if more > 0 {
        lines.push(format!("and {more} more partition(s)"));
    }
    lines.push(String::new());
    lines.extend(newest(overview));
    lines
}

/// Rates, lag, latency and the queue, a line each.
fn figures(overview: &Overview) -> Vec<String> {
    let Overview { rates, totals, queue, .. } = overview;
    let mut lines = Vec::new();
    lines.push(format!(
        "arriving {}   read {:.0}/s ({}/s)   done {:.0}/s   {} record(s) done in {} run(s), {} failed",
        rates.records_arriving.map_or("-".to_owned(), |rate| format!("{rate:.0}/s")),
        rates.records_in,
        bytes(rates.bytes_in as u64),
        rates.records_done,
        totals.records_done,
        totals.runs_succeeded + totals.runs_failed,
        totals.runs_failed
    ));
    lines.push(format!("lag {}", lag(&overview.lag)));
    if let Some(LatencyView { p50_s, p95_s, p99_s, .. }) = overview.latency {
        let [p50, p95, p99] = [p50_s, p95_s, p99_s].map(seconds);
        lines.push(format!(
            "latency p50 {p50}, p95 {p95}, p99 {p99} (from a record's timestamp to the end of its run, last minute)"
        ));
    }
    lines.push(format!(
        "queue {} of {} run(s), {} of {}; {} wait(s) for another attempt; {} dead letter(s) open; memory {}",
        queue.runs,
        queue.limit,
        bytes(queue.bytes),
        bytes(queue.bytes_limit),
        queue.waiting_retries,
        overview.dead_letters_open,
        bytes(overview.memory_bytes)
    ));
    lines
}

/// The newest ticks and runs, a line each.
fn newest(overview: &Overview) -> Vec<String> {
    let mut lines = Vec::new();
    for tick in overview.ticks.iter().take(NEWEST) {
        lines.push(format!(
            "tick {} of sensor {}: {} record(s), {} batch(es) in {}, ended by {}{}",
            clock::format_ms(tick.started_ms),
            tick.sensor,
            tick.records,
            tick.batches,
            seconds(tick.run_ms / 1000.0),
            tick.ended_by,
            tick.error.as_ref().map_or(String::new(), |error| format!(": {error}"))
        ));
    }
    for run in overview.newest_runs.iter().take(NEWEST) {
        lines.push(format!(
            "run {:<8} {:<10} {} {} record(s){}",
            run.id,
            run.state,
            run.key,
            run.records,
            run.error.as_ref().map_or(String::new(), |error| format!(": {error}"))
        ));
    }
    lines
}

fn lag(lag: &LagView) -> String {
    let total = match lag.total {
        Some(total) => format!("{total} record(s) in {} partition(s)", lag.partitions),
        None => "not known".to_owned(),
    };
    let behind =
        lag.seconds.map_or(String::new(), |behind| format!(", {} behind", seconds(behind)));
    let error = lag.error.as_ref().map_or(String::new(), |error| format!(" ({error})"));
    format!("{total}{behind}{error}")
}

fn running(run: &RunningView) -> String {
    let attempt =
        if run.attempt > 1 { format!(", attempt {}", run.attempt) } else { String::new() };
    let stalled = if run.stalled { ", STALLED" } else { "" };
    format!("run {} {} for {}{attempt}{stalled}", run.id, run.key, seconds(run.running_s))
}

/// `0.4s`, `12s`, `3m 20s`, `5h 12m`, `2d 3h`.
fn seconds(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let whole = seconds as u64;
    match whole {
        _ if seconds == 0.0 => "0s".to_owned(),
        _ if seconds < 0.0005 => "<1ms".to_owned(),
        _ if seconds < 0.9995 => format!("{:.0}ms", seconds * 1000.0),
        0..10 => format!("{seconds:.1}s"),
        10..60 => format!("{whole}s"),
        60..3600 => format!("{}m {}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h {}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d {}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// `812 B`, `3.1 MiB`.
fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    let mut text = String::new();
    // A String takes whatever is written to it.
    let _ = if unit == "B" { write!(text, "{bytes} B") } else { write!(text, "{value:.1} {unit}") };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::steering::{Setting, SettingsView};
    use crate::observe::overview::*;
    use crate::observe::watch::starting;

    fn overview() -> Overview {
        let whole = |value| Setting { value, start_value: value };
        Overview {
            version: "1.2.3".into(),
            pid: 7,
            now_ms: 100_000,
            started_ms: 10_000,
            topic: "t".into(),
            group: "g".into(),
            client: "embedded".into(),
            broker: "embedded topic".into(),
            step: "log".into(),
            waiting_for: None,
            hold: None,
            sensor: SensorView { paused: false, sensors: 1, tick_runtime_s: 10.0 },
            settings: SettingsView {
                rate: None,
                max_batch: whole(50),
                max_concurrent_runs: whole(2),
                max_wait_s: Setting { value: 0.1, start_value: 0.1 },
                tick_interval_s: Setting { value: 1.0, start_value: 1.0 },
            },
            totals: Totals::default(),
            rates: Rates::default(),
            latency: None,
            lag: LagView {
                total: Some(1200),
                catch_up_s: Some(75.0),
                partitions: 1,
                ..LagView::default()
            },
            queue: QueueView {
                limit: 100,
                bytes: 3_250_585,
                bytes_limit: 32 << 20,
                ..QueueView::default()
            },
            workers: vec![WorkerView { worker: 0, run: None }],
            dead_letters_open: 0,
            last_commit_ms: None,
            memory_bytes: 0,
            freshness: None,
            verdict: starting(None),
            health: HealthView::default(),
            newest_runs: Vec::new(),
            ticks: Vec::new(),
        }
    }

    #[test]
    fn the_verdict_is_followed_by_what_it_does_not_say() {
        let mut overview = overview();
        overview.verdict.headline = "Falling behind: 1,200 records behind".into();
        overview.verdict.advice = Some("set sensors to 2".into());
        let reason = |detail: &str| Reason { reason: "x".into(), detail: detail.into() };
        overview.verdict.reasons = vec![reason("1,200 records"), reason("1 dead letter is open")];
        overview.sensor.paused = true;
        let text = picture(&overview, 200);
        let shown: Vec<_> = text.lines().skip(2).take(5).collect();
        let expected = [
            "Falling behind: 1,200 records behind",
            "  > set sensors to 2",
            "  ! 1 dead letter is open",
            "  mb resume lets ticks begin by themselves again",
            "",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn lines_are_cut_to_the_width_and_have_no_control_characters() {
        let mut overview = overview();
        overview.verdict.reasons.push(Reason {
            reason: "step".into(),
            detail: format!("\u{1b}[2J{}", "x".repeat(500)),
        });
        let text = picture(&overview, 60);
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        assert!(!text.contains('\u{1b}') && text.contains("\\u{1b}"), "{text}");
    }

    #[test]
    fn sizes_and_durations_have_readable_units() {
        assert_eq!([0, 812, 3_250_585].map(bytes), ["0 B", "812 B", "3.1 MiB"]);
        let shown = [0.0, 0.0001, 0.42, 4.2, 12.9, 200.0, 18_720.0, 183_600.0].map(seconds);
        assert_eq!(shown, ["0s", "<1ms", "420ms", "4.2s", "12s", "3m 20s", "5h 12m", "2d 3h"]);
    }
}
