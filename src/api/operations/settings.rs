//! Changes settings while mb runs.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::api::context::Context;
use crate::api::session::Session;
use crate::config::Config;
use crate::config::limits;
use crate::config::steering::{Settings, SettingsView, settings_view};
use crate::config::units::format_duration;
use crate::model::error::{Error, Result};
use crate::model::events::Event;

/// A change of settings. A setting that is null or missing stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "SettingsBody")]
pub struct ChangeSettings {
    /// Messages per second of mb's own producer; 0 for no limit.
    pub rate: Option<f64>,
    /// Records of a batch, at most.
    pub max_batch: Option<u64>,
    pub max_concurrent_runs: Option<u64>,
    /// Seconds that a batch may wait for more records.
    pub max_wait_s: Option<f64>,
    /// Seconds between two ticks.
    pub tick_interval_s: Option<f64>,
}

impl Operation for ChangeSettings {
    type Answer = SettingsView;

    fn perform(self, context: &Context, _: &mut Session) -> Result<SettingsView> {
        context.with_pipeline(|pipeline| {
            let (before, after) = pipeline
                .engine
                .steering
                .set(|settings| apply(&self, settings, &pipeline.engine.config))?;
            for line in changes(&before, &after) {
                log::info!("{line}, on request");
            }
            if before.max_concurrent_runs != after.max_concurrent_runs {
                // If the channel is full, the supervisor still looks at the number of workers each second.
                let _ = pipeline.engine.events.try_send(Event::SettingsChanged);
            }
            Ok(settings_view(&pipeline.engine.steering))
        })
    }
}

/// Applies the change if each value follows the rule of its flag, and no two contradict each other.
fn apply(change: &ChangeSettings, settings: &mut Settings, config: &Config) -> Result<()> {
    if let Some(rate) = change.rate {
        if settings.rate.is_none() {
            return Err(Error::Usage(
                "rate: this mb has no producer of its own (it was started without --rate)".into(),
            ));
        }
        let fits = rate == 0.0 || (limits::RATE_MIN..=limits::RATE_MAX).contains(&rate);
        if !fits {
            return Err(Error::Usage(format!(
                "rate: got {rate}, expected {} to {}, or 0 for no limit",
                limits::RATE_MIN,
                limits::RATE_MAX
            )));
        }
        settings.rate = Some(rate);
    }
    if let Some(records) = change.max_batch {
        settings.max_batch = whole("max_batch", records, limits::MAX_BATCH_RECORDS)?;
        Config { max_batch: settings.max_batch, ..config.clone() }
            .check()
            .map_err(|error| Error::Usage(format!("max_batch: got {records}: {error}")))?;
    }
    if let Some(runs) = change.max_concurrent_runs {
        settings.max_concurrent_runs = whole("max_concurrent_runs", runs, limits::WORKERS_MAX)?;
    }
    if let Some(seconds) = change.max_wait_s {
        settings.max_wait = duration("max_wait_s", seconds)?;
    }
    if let Some(seconds) = change.tick_interval_s {
        settings.tick_interval = duration("tick_interval_s", seconds)?;
    }
    Ok(())
}

fn duration(name: &str, seconds: f64) -> Result<Duration> {
    let duration = Duration::try_from_secs_f64(seconds).ok();
    duration.filter(|duration| *duration <= limits::DURATION_MAX).ok_or_else(|| {
        Error::Usage(format!(
            "{name}: got {seconds}, expected seconds from 0 to {}",
            limits::DURATION_MAX.as_secs()
        ))
    })
}

fn whole(name: &str, value: u64, most: u64) -> Result<usize> {
    let fits = (1..=most).contains(&value);
    let value_in_memory = usize::try_from(value).ok().filter(|_| fits);
    value_in_memory
        .ok_or_else(|| Error::Usage(format!("{name}: got {value}, expected 1 to {most}")))
}

/// One line for each setting that has changed.
fn changes(before: &Settings, after: &Settings) -> Vec<String> {
    let rate = |settings: &Settings| match settings.rate {
        Some(0.0) => "max".to_owned(),
        rate => rate.unwrap_or_default().to_string(),
    };
    let all = [
        ("rate", rate(before), rate(after)),
        ("max-batch", before.max_batch.to_string(), after.max_batch.to_string()),
        (
            "max-concurrent-runs",
            before.max_concurrent_runs.to_string(),
            after.max_concurrent_runs.to_string(),
        ),
        ("max-wait", format_duration(before.max_wait), format_duration(after.max_wait)),
        (
            "tick-interval",
            format_duration(before.tick_interval),
            format_duration(after.tick_interval),
        ),
    ];
    let changed = all.into_iter().filter(|(_, before, after)| before != after);
    changed.map(|(name, before, after)| format!("{name}: {before} -> {after}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Produce;

    fn applied(change: &ChangeSettings, config: &Config) -> Result<Settings> {
        let mut settings = Settings::of(config);
        apply(change, &mut settings, config).map(|()| settings)
    }

    #[test]
    fn a_value_that_its_flag_does_not_take_is_refused_and_named() {
        let config = Config { produce: Some(Produce::default()), ..Config::default() };
        let none = ChangeSettings::default();
        for (change, name) in [
            (ChangeSettings { rate: Some(-1.0), ..none.clone() }, "rate"),
            (ChangeSettings { rate: Some(f64::NAN), ..none.clone() }, "rate"),
            (ChangeSettings { rate: Some(1e-9), ..none.clone() }, "rate"),
            (ChangeSettings { max_batch: Some(0), ..none.clone() }, "max_batch"),
            (ChangeSettings { max_batch: Some(1_000_001), ..none.clone() }, "max_batch"),
            (
                ChangeSettings { max_concurrent_runs: Some(1001), ..none.clone() },
                "max_concurrent_runs",
            ),
            (ChangeSettings { max_wait_s: Some(f64::NAN), ..none.clone() }, "max_wait_s"),
            (ChangeSettings { tick_interval_s: Some(-0.5), ..none.clone() }, "tick_interval_s"),
            (
                ChangeSettings { tick_interval_s: Some(f64::INFINITY), ..none.clone() },
                "tick_interval_s",
            ),
            (ChangeSettings { tick_interval_s: Some(1e9), ..none.clone() }, "tick_interval_s"),
        ] {
            let error = applied(&change, &config).unwrap_err();
            assert_eq!(error.exit_code(), 64);
            assert!(error.to_string().starts_with(&format!("{name}: got")), "{error}");
        }
        assert_eq!(applied(&none, &config), Ok(Settings::of(&config)));
    }

    #[test]
    fn a_rate_needs_a_producer_and_a_batch_must_fit_the_memory() {
        let rate = ChangeSettings { rate: Some(5.0), ..ChangeSettings::default() };
        let error = applied(&rate, &Config::default()).unwrap_err();
        assert!(error.to_string().contains("no producer"), "{error}");
        let tight = Config { bisect: true, queue_bytes: 2 << 20, ..Config::default() };
        let batch = ChangeSettings { max_batch: Some(100_000), ..ChangeSettings::default() };
        let error = applied(&batch, &tight).unwrap_err().to_string();
        assert!(
            error.contains("max_batch: got 100000") && error.contains("--queue-bytes"),
            "{error}"
        );
        assert!(applied(&batch, &Config { bisect: false, ..tight }).is_ok());
    }

    #[test]
    fn each_changed_setting_is_one_line() {
        let before = Settings::of(&Config::default());
        let after = Settings {
            max_batch: 200,
            max_wait: Duration::from_secs(3600),
            tick_interval: Duration::from_millis(1500),
            ..before.clone()
        };
        let lines = changes(&before, &after);
        assert_eq!(
            lines,
            ["max-batch: 50 -> 200", "max-wait: 100ms -> 1h", "tick-interval: 0 -> 1.5s"]
        );
        let produced = Settings { rate: Some(0.0), ..before.clone() };
        let paced = Settings { rate: Some(20.5), ..before };
        assert_eq!(changes(&produced, &paced), ["rate: max -> 20.5"]);
    }
}
