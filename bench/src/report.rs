//! What came out, as a Markdown table a workload and one of the goals, and all of it as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::contender::{BEFORE, MB_RDKAFKA};
use crate::figures::{Metric, Row, Section, ratio_interval};
use crate::goals::{Goal, Outcome};

/// The whole of a run of the bench, as it is written to results.json.
#[derive(Serialize)]
pub struct Results<'a> {
    pub machine: Machine,
    pub mode: &'a str,
    pub rounds: u32,
    pub seconds: f64,
    pub sections: &'a [Section],
    pub goals: Vec<Judged>,
}

#[derive(Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    /// Load of the last minute, before anything was started.
    pub load_before: f64,
    pub mb: String,
}

#[derive(Serialize)]
pub struct Judged {
    section: &'static str,
    what: &'static str,
    bound: String,
    #[serde(flatten)]
    outcome: Outcome,
    #[serde(skip)]
    shown: String,
}

/// The goals of the sections that are there.
pub fn judge(goals: &'static [Goal], sections: &[Section]) -> Vec<Judged> {
    let judged = goals.iter().filter_map(|goal| {
        let section = sections.iter().find(|section| section.name == goal.section)?;
        let outcome = goal.check(section);
        Some(Judged {
            section: goal.section,
            what: goal.what,
            bound: goal.bound.show(),
            shown: outcome.show(goal.bound),
            outcome,
        })
    });
    judged.collect()
}

pub fn goals_table(judged: &[Judged]) -> String {
    let mut text = String::from("## Goals\n\n| workload | goal | outcome |\n| --- | --- | --- |\n");
    for goal in judged {
        let _ = writeln!(text, "| {} | {} | {} |", goal.section, goal.what, goal.shown);
    }
    text
}

/// Medians with the least and the most of the rounds, and the first metric against the best row's.
pub fn table(section: &Section) -> String {
    let mut text = format!("## {}: {} (Kafka {})\n\n", section.name, section.title, section.kafka);
    if let Some(why) = &section.void {
        let _ = writeln!(text, "**Void**: {why}\n");
    }
    let mut titles = vec!["contender".to_owned()];
    titles.extend(section.columns.iter().map(|metric| metric.title().to_owned()));
    if section.compared {
        titles.push("against the best".into());
    }
    let _ = writeln!(text, "| {} |", titles.join(" | "));
    let right = titles[1..].iter().map(|_| " ---: |").collect::<String>();
    let _ = writeln!(text, "| --- |{right}");
    for row in &section.rows {
        let mut cells = vec![row.contender.clone()];
        match &row.void {
            Some(why) => cells.push(format!("not run: {}", cell(why))),
            None => {
                cells.extend(section.columns.iter().map(|metric| figure(row, *metric)));
                cells.extend(
                    section.compared.then(|| against_best(section, row).unwrap_or_default()),
                );
            }
        }
        cells.resize(titles.len(), String::new());
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.push('\n');
    for note in &section.notes {
        let _ = writeln!(text, "- {note}");
    }
    text
}

/// What mb costs now, through what the build before cost, by the rounds' pairs. Below 1 is better.
pub fn before_table(sections: &[Section]) -> String {
    const COSTS: [Metric; 5] =
        [Metric::WallS, Metric::CpuS, Metric::PeakBytes, Metric::P50Us, Metric::P99Us];
    let mut text = String::from(
        "## Against the build before (costs: below 1 is better)\n\n\
         | workload | cost | ratio | 95 % interval | rounds |\n| --- | --- | ---: | ---: | ---: |\n",
    );
    for section in sections {
        let (Some(now), Some(before)) = (section.row(MB_RDKAFKA), section.row(BEFORE)) else {
            continue;
        };
        for metric in COSTS {
            let (Some(of), Some(to)) = (now.figures.get(&metric), before.figures.get(&metric))
            else {
                continue;
            };
            let Some([ratio, low, high]) = ratio_interval(of, to) else { continue };
            let (name, what, rounds) = (&section.name, metric.title(), of.len().min(to.len()));
            let _ = writeln!(
                text,
                "| {name} | {what} | {ratio:.3} | {low:.3} to {high:.3} | {rounds} |"
            );
        }
    }
    text
}

/// No line end and no bar ends a cell.
fn cell(text: &str) -> String {
    text.replace('|', "/").replace('\n', " ")
}

fn figure(row: &Row, metric: Metric) -> String {
    let Some(median) = row.median(metric) else { return "–".into() };
    let figures = row.figures.get(&metric).map_or(&[][..], Vec::as_slice);
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = if figures.len() > 1 {
        format!(" ({}–{})", metric.show(least), metric.show(most))
    } else {
        String::new()
    };
    format!("{}{range}", metric.show(median))
}

/// The first column's figure through the best one's: the highest rate, or the least of all else.
fn against_best(section: &Section, row: &Row) -> Option<String> {
    let metric = *section.columns.first()?;
    let all = section.rows.iter().filter_map(|row| row.median(metric));
    let best = if matches!(metric, Metric::RecordsPerS | Metric::RunsPerS) {
        all.fold(f64::NEG_INFINITY, f64::max)
    } else {
        all.fold(f64::INFINITY, f64::min)
    };
    if best == 0.0 { None } else { Some(format!("{:.2}", row.median(metric)? / best)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Metric::{RecordsPerS, WallS};

    fn section() -> Section {
        let mut fast = Row::new("fast");
        [2e6, 1e6, 3e6].iter().for_each(|rate| fast.add(RecordsPerS, *rate));
        fast.add(WallS, 1.0);
        let mut slow = Row::new("slow");
        slow.add(RecordsPerS, 500_000.0);
        let mut absent = Row::new("absent");
        absent.void = Some("not there: run bench/setup | or not".into());
        Section {
            name: "W1".into(),
            title: "drain".into(),
            kafka: "3.9.1".into(),
            columns: vec![RecordsPerS, WallS],
            rows: vec![fast, slow, absent],
            compared: true,
            notes: vec!["A note.".into()],
            void: None,
        }
    }

    #[test]
    fn a_table_has_medians_ranges_and_ratios() {
        let expected = "\
## W1: drain (Kafka 3.9.1)

| contender | records/s | wall s | against the best |
| --- | ---: | ---: | ---: |
| fast | 2,000,000 (1,000,000–3,000,000) | 1.00 | 1.00 |
| slow | 500,000 | – | 0.25 |
| absent | not run: not there: run bench/setup / or not |  |  |

- A note.
";
        assert_eq!(table(&section()), expected);
    }

    #[test]
    fn a_void_section_says_so_above_its_figures() {
        let section = Section { void: Some("disturbed".into()), ..section() };
        assert!(table(&section).contains("\n**Void**: disturbed\n\n| contender"));
    }

    #[test]
    fn only_goals_of_what_was_measured_are_judged() {
        let judged = judge(crate::goals::GOALS, &[section()]);
        assert!(!judged.is_empty() && judged.iter().all(|goal| goal.section == "W1"));
        let table = goals_table(&judged);
        assert!(table.contains("void: mb-rdkafka did not take part"), "{table}");
    }
}
