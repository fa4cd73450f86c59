//! `mb produce`: the producer alone, with messages of its own or stdin's lines.

use std::process::ExitCode;
use std::sync::Arc;

use crossbeam_channel::{bounded, select};
use log::info;

use crate::cli::args::{ProduceArgs, Source};
use crate::cli::connect;
use crate::cli::terminal::Terminal;
use crate::kafka::Broker;
use crate::model::error::{Error, Result};
use crate::model::thread;
use crate::pipeline::signals;
use crate::source::producer::messages::{Lines, Messages, Sequence};
use crate::source::producer::{ProducerTask, Progress, Reconnect, Report};

/// The exit code of a stop that was not waited for.
const FORCED_STOP: u8 = 2;

/// Runs the command: posts until the messages end or a signal comes.
///
/// # Errors
/// Where the broker cannot be reached at the start, or messages were not acknowledged.
pub fn run(args: ProduceArgs, terminal: &Terminal) -> Result<ExitCode> {
    let signals = signals::listen()?;
    let embedded =
        if args.rate_given { connect::Embedded::Welcome } else { connect::Embedded::IfNamed };
    let connected = connect::broker(&args.connection, args.given, embedded)?;
    let (broker, connection) = (Arc::clone(&connected.broker), &connected.connection);
    let topic = connect::topic_or_create(broker.as_ref(), connection)?;
    info!(
        "producing to topic {} ({} partitions): {}",
        topic.name,
        topic.partitions.len(),
        broker.describe()
    );

    let (stop, stopped) = bounded(0);
    let task = ProducerTask {
        orders: None,
        rate: args.settings.rate,
        progress: progress(&args, terminal),
        messages: messages(args)?,
        partitions: u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX),
        producer: broker.producer(&topic.name)?,
        reconnect: reconnect(Arc::clone(&broker), topic.name.clone()),
        stop: stopped,
        live: None,
    };
    // The channel ends with the thread, whether it returns or panics.
    let (done_sender, done) = bounded::<()>(0);
    let thread = thread::spawn("producer", move || {
        let _done = done_sender;
        task.run()
    })?;
    select! {
        recv(done) -> _ => {}
        recv(signals) -> _ => {
            info!("stopping: waiting for the last acknowledgements");
            drop(stop);
            select! {
                recv(done) -> _ => {}
                recv(signals) -> _ => return Ok(ExitCode::from(FORCED_STOP)),
            }
        }
    }
    outcome(thread.join()?)
}

fn reconnect(broker: Arc<dyn Broker>, topic: String) -> Reconnect {
    Box::new(move || broker.producer(&topic))
}

fn messages(args: ProduceArgs) -> Result<Box<dyn Messages>> {
    Ok(match args.source {
        Source::Sequence => Box::new(Sequence::from(0, args.settings)),
        Source::Stdin { key_separator } => Box::new(Lines::read(std::io::stdin(), key_separator)?),
    })
}

/// A bar where a count is to be reached and somebody looks on, else lines in the log.
fn progress(args: &ProduceArgs, terminal: &Terminal) -> Progress {
    let Some(count) = args.settings.count.filter(|_| terminal.is_watched()) else {
        return Progress::Log;
    };
    // The line that sums up takes the bar's place.
    let bar = terminal.bar(count, "posted");
    Progress::Tell(Box::new(move |acknowledged| bar.set(acknowledged)))
}

/// Anything not acknowledged is an error, after an orderly stop too.
fn outcome(report: Report) -> Result<ExitCode> {
    if report.failed > 0 {
        let cause = report.error.map_or("no answer in time".to_owned(), |error| error.to_string());
        return Err(Error::Other(format!(
            "{} of {} messages were not acknowledged: {cause}",
            report.failed, report.posted
        )));
    }
    match report.error {
        Some(error) => Err(error),
        None => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn report() -> Report {
        let elapsed = Duration::from_secs(1);
        Report { posted: 10, acknowledged: 10, failed: 0, elapsed, stopped: false, error: None }
    }

    #[test]
    fn all_acknowledged_is_success_even_after_a_stop() {
        assert!(outcome(report()).is_ok());
        assert!(outcome(Report { stopped: true, ..report() }).is_ok());
    }

    #[test]
    fn messages_not_acknowledged_are_counted_in_the_error() {
        let cause = Some(Error::Other("timed out".into()));
        let error =
            outcome(Report { acknowledged: 7, failed: 3, error: cause, ..report() }).unwrap_err();
        assert_eq!(error.to_string(), "3 of 10 messages were not acknowledged: timed out");
        assert_eq!(error.exit_code(), 1);
    }
}
