//! `mb produce`: produces numbered messages or the lines of stdin, without reading the topic.

use std::sync::Arc;

use crossbeam_channel::{bounded, select};
use log::info;

use crate::cli::connect;
use crate::cli::errors::{shown, usage};
use crate::cli::flags::{Command, Common, Flags, flags};
use crate::cli::terminal::Terminal;
use crate::cli::values;
use crate::config::{Client, Produce};
use crate::kafka::Broker;
use crate::model::error::{Error, Result};
use crate::model::thread;
use crate::pipeline::signals;
use crate::source::producer::messages::{Lines, Messages, Sequence};
use crate::source::producer::{ProducerTask, Progress, Reconnect, Report};

flags! {
    #[argh(
        description = "Produces messages to the topic, which is created if it does not exist. The value of a message is JSON \
            with a sequence number (seq) and the time of sending (sent_ms, milliseconds since 1970). With -, the \
            lines of stdin are the messages instead.",
        example = "mb produce --rate 5000 --count 100000\n\
            mb produce --topic orders --key-separator : - < orders.txt"
    )]
    struct ProduceFlags {
        "Messages": {
            /// produce each line of stdin, unchanged but without its newline, and without a rate limit if
            /// --rate is not set
            #[argh(positional, arg_name = "-")]
            source: Option<String>,

            /// messages per second, 0.001 to 10000000, or max for no limit (default 1000)
            #[argh(option, arg_name = "RATE", from_str_fn(values::rate))]
            rate: Option<f64>,

            /// stop after N messages (if not set, mb produces until it is stopped)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 1_000_000_000_000_000, _>))]
            count: Option<u64>,

            /// minimum size of a message's value, 1 to 64MiB (default 100)
            #[argh(option, arg_name = "SIZE", from_str_fn(values::size::<1, 67_108_864, _>))]
            message_bytes: Option<usize>,

            /// number of distinct keys, up to 1000000000; all messages with the same key go to the same
            /// partition; 0 produces without keys, to one partition after another (default 0)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<0, 1_000_000_000, _>))]
            keys: Option<u64>,

            /// with -: the text between key and value; a line without it becomes a message without a key
            #[argh(option, arg_name = "TEXT", from_str_fn(values::text))]
            key_separator: Option<String>,
        }
    }
}

#[derive(Debug)]
pub struct ProduceArgs {
    pub common: Common,
    pub settings: Produce,
    pub source: Source,
    /// `--rate` was given: without Kafka the embedded topic is used.
    pub rate_given: bool,
}

/// What `mb produce` produces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Numbered messages.
    Sequence,
    /// The lines of stdin; the text before the first `key_separator` of a line is its key.
    Stdin { key_separator: Option<String> },
}

impl Command for ProduceFlags {
    const NAME: &'static str = "produce";
    const SUMMARY: &'static str = "produce messages to the topic";
    const USAGE: &'static [&'static str] = &["[FLAGS] [-]"];
    type Args = ProduceArgs;

    fn check(self) -> Result<ProduceArgs> {
        let common = self.common()?;
        let source = self.source()?;
        let default = Produce::default();
        let default_rate = match source {
            Source::Sequence => default.rate,
            // The lines exist already, so they are paced only with `--rate`.
            Source::Stdin { .. } => 0.0,
        };
        let settings = Produce {
            rate: self.rate.unwrap_or(default_rate),
            count: self.count,
            message_bytes: self.message_bytes.unwrap_or(default.message_bytes),
            keys: self.keys.unwrap_or(default.keys),
        };
        Ok(ProduceArgs { common, settings, source, rate_given: self.rate.is_some() })
    }

    /// Produces until the messages end or a signal comes.
    fn run(args: ProduceArgs, terminal: &Terminal) -> Result<()> {
        let signals = signals::listen()?;
        let embedded =
            if args.rate_given { connect::Embedded::Always } else { connect::Embedded::IfNamed };
        let connected = connect::broker(&args.common, embedded)?;
        let (broker, connection) = (Arc::clone(&connected.broker), &connected.connection);
        let topic = connect::topic_or_create(broker.as_ref(), connection)?;
        topic.check_written()?;
        connect::warn_of_unreachable(broker.as_ref(), &topic);
        info!(
            "producing to topic {} ({} partitions): {}",
            topic.name,
            topic.partitions.len(),
            broker.describe()
        );

        let (stop, stopped) = bounded(0);
        let task = ProducerTask {
            subscription: None,
            rate: args.settings.rate,
            progress: progress(&args, terminal),
            messages: messages(args)?,
            partitions: u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX),
            producer: broker.producer(&topic.name)?,
            reconnect: reconnect(Arc::clone(&broker), topic.name.clone()),
            stop: stopped,
            live: None,
        };
        // The channel is closed when the thread ends, by a return or a panic.
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
                    recv(signals) -> _ => return Err(Error::Forced(
                        "stopped by a second signal before every message was acknowledged".into(),
                    )),
                }
            }
        }
        outcome(thread.join()?)
    }
}

impl ProduceFlags {
    fn source(&self) -> Result<Source> {
        match (self.source.as_deref(), &self.key_separator) {
            (None, None) => Ok(Source::Sequence),
            (None, Some(separator)) => {
                let separator = shown(separator);
                usage(format!(
                    "--key-separator: got {separator} without -, expected - (the lines of stdin) as well"
                ))
            }
            (Some("-"), separator) => {
                let of_sequence = [
                    ("--count", self.count.is_some()),
                    ("--message-bytes", self.message_bytes.is_some()),
                    ("--keys", self.keys.is_some()),
                ];
                if let Some((flag, _)) = of_sequence.iter().find(|(_, given)| *given) {
                    return usage(format!(
                        "{flag}: got this flag with -, expected only one of them, because the lines of \
                         stdin are the messages"
                    ));
                }
                Ok(Source::Stdin { key_separator: separator.clone() })
            }
            (Some(other), _) => {
                let other = shown(other);
                usage(format!("argument: got {other}, expected - (the lines of stdin) or none"))
            }
        }
    }
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

/// A bar if there is a count and stderr is a terminal; otherwise lines in the log.
fn progress(args: &ProduceArgs, terminal: &Terminal) -> Progress {
    let Some(count) = args.settings.count.filter(|_| terminal.is_watched()) else {
        return Progress::Log;
    };
    // The closing line of the log replaces the bar.
    let bar = terminal.bar(count, "posted");
    Progress::Call(Box::new(move |acknowledged| bar.set(acknowledged)))
}

/// A message that was not acknowledged is an error, even after a clean stop.
fn outcome(report: Report) -> Result<()> {
    if report.failed > 0 {
        let cause = report.error.map_or("no answer in time".to_owned(), |error| error.to_string());
        return Err(Error::Other(format!(
            "{} of {} messages were not acknowledged: {cause}",
            report.failed, report.posted
        )));
    }
    match report.error {
        Some(error) => Err(error),
        None => Ok(()),
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
    fn a_stop_is_no_error_if_every_message_was_acknowledged() {
        assert!(outcome(report()).is_ok());
        assert!(outcome(Report { stopped: true, ..report() }).is_ok());
    }

    #[test]
    fn the_error_counts_the_messages_that_were_not_acknowledged() {
        let cause = Some(Error::Other("timed out".into()));
        let error =
            outcome(Report { acknowledged: 7, failed: 3, error: cause, ..report() }).unwrap_err();
        assert_eq!(error.to_string(), "3 of 10 messages were not acknowledged: timed out");
        assert_eq!(error.exit_code(), 1);
    }
}
