//! The macro `flags!`, by which a command declares its flags: it makes the argh struct, and maps each flag to the
//! field of `Config` that it sets. The flags that every command has (connection and data directory) are here.
//!
//! A command's own flags are in its file, the rules for values in `values`, the parsing of a command line in `line`.

use argh::{ArgsInfo, CommandInfoWithArgs, FromArgs};

use crate::cli::terminal::Terminal;
use crate::config::{Config, Connection};
use crate::model::error::Result;

/// A heading of the help text and the fields of the flags below it.
pub type Group = (&'static str, &'static [&'static str]);

/// Flags made by `flags!`.
pub trait Flags: FromArgs + ArgsInfo {
    const GROUPS: &'static [Group];

    /// The defaults, changed by every flag that sets a field.
    fn config(&self) -> Config;

    /// Whether `--topic` was typed, and whether `--group` was.
    fn given(&self) -> (bool, bool);

    /// The flags that every command has.
    ///
    /// # Errors
    /// As `Connection::check`.
    fn common(&self) -> Result<Common> {
        let connection = self.config().connection;
        connection.check()?;
        let (topic_given, group_given) = self.given();
        Ok(Common { connection, topic_given, group_given })
    }
}

/// A command of mb: its flags, its checked arguments, and how it runs.
pub trait Command: Flags {
    /// What is typed after `mb`; empty for the main job.
    const NAME: &'static str;
    /// One line for the list of commands in `mb --help`.
    const SUMMARY: &'static str;
    /// What may follow the name, one form per element.
    const USAGE: &'static [&'static str];
    /// The checked arguments.
    type Args: 'static;

    /// Checks rules that concern several flags. Reads nothing but the flags.
    ///
    /// # Errors
    /// `Usage` or `Config` for flags that contradict each other.
    fn check(self) -> Result<Self::Args>;

    /// Runs the command.
    ///
    /// # Errors
    /// Those of the command.
    fn run(args: Self::Args, terminal: &Terminal) -> Result<()>;
}

/// What is known of a command before its flags are read.
pub struct Spec {
    pub name: &'static str,
    pub summary: &'static str,
    pub usage: &'static [&'static str],
    pub groups: &'static [Group],
    pub info: CommandInfoWithArgs,
}

impl Spec {
    pub fn of<T: Command>() -> Spec {
        Spec {
            name: T::NAME,
            summary: T::SUMMARY,
            usage: T::USAGE,
            groups: T::GROUPS,
            info: T::get_args_info(),
        }
    }

    /// What a user types: `mb`, `mb lag`.
    pub fn typed(&self) -> String {
        format!("mb {}", self.name).trim_end().to_owned()
    }
}

/// The flags that every command has.
#[derive(Debug)]
pub struct Common {
    pub connection: Connection,
    /// Whether `--topic` was typed; if not, a running mb may say which topic is meant.
    pub topic_given: bool,
    /// The same for `--group`.
    pub group_given: bool,
}

impl Common {
    /// The topic, if it was typed.
    pub fn typed_topic(&self) -> Option<String> {
        self.topic_given.then(|| self.connection.topic.clone())
    }

    /// The group, if it was typed.
    pub fn typed_group(&self) -> Option<String> {
        self.group_given.then(|| self.connection.group.clone())
    }
}

/// A command's flags as an argh struct, under the headings of its help text. `=>` names the field of
/// `Config` that a flag sets; `(default …)` in a help text is held to `Config::default()` by a test.
///
/// Types are taken apart into names because argh reads them by their letters and cannot look into a
/// macro's `ty`.
macro_rules! flags {
    ($(#[$meta:meta])* struct $name:ident { $($own:tt)* }) => {
        $crate::cli::flags::flags! {
            @all $(#[$meta])* struct $name {
                $($own)*
                "Connection and data": {
                    /// addresses of the Kafka brokers; if not set, mb takes localhost:9092 if a broker answers
                    /// there, and otherwise, with --rate or --client embedded, the embedded topic
                    #[argh(option, arg_name = "HOST:PORT[,HOST:PORT…]", from_str_fn($crate::cli::values::servers))]
                    bootstrap_server: Option<String> => connection.bootstrap_server,

                    /// name of the topic (default First_Topic)
                    #[argh(option, arg_name = "NAME", from_str_fn($crate::cli::values::text))]
                    topic: Option<String> => connection.topic,

                    /// consumer group whose committed offsets are used (default mb)
                    #[argh(option, arg_name = "NAME", from_str_fn($crate::cli::values::text))]
                    group: Option<String> => connection.group,

                    /// client for the topic: rdkafka (librdkafka), kafka (pure Rust, brokers up to 3.9), embedded
                    /// (a topic in the data directory, without Kafka), or auto, which chooses (default auto)
                    #[argh(option, arg_name = "CLIENT", from_str_fn($crate::cli::values::client))]
                    client: Option<Client> => connection.client,

                    /// directory of the history, the dead letters and the embedded topic (default mb-data)
                    #[argh(option, arg_name = "DIR", from_str_fn($crate::cli::values::text))]
                    data_dir: Option<String> => connection.data_dir,

                    /// number of partitions of a topic that mb creates, 1 to 10000 (default 4)
                    #[argh(option, arg_name = "N", from_str_fn($crate::cli::values::whole::<1, 10_000, _>))]
                    partitions: Option<u32> => connection.partitions,

                    /// size above which the embedded topic removes its oldest records, 64KiB to 1024GiB; unread
                    /// records are never removed (default 256MiB)
                    #[argh(
                        option,
                        arg_name = "SIZE",
                        from_str_fn($crate::cli::values::size::<65_536, 1_099_511_627_776, _>)
                    )]
                    embedded_retention_bytes: Option<u64> => connection.embedded_retention_bytes,
                }
            }
        }
    };
    (
        @all $(#[$meta:meta])* struct $name:ident {
            $($heading:literal: {
                $(
                    $(#[$field_meta:meta])*
                    $field:ident: $type:ident $(<$inner:ident>)? $(=> $($setting:ident).+)?,
                )*
            })*
        }
    ) => {
        #[derive(argh::FromArgs, argh::ArgsInfo, Debug)]
        $(#[$meta])*
        pub struct $name {
            $($($(#[$field_meta])* pub $field: $type $(<$inner>)?,)*)*
        }

        impl $crate::cli::flags::Flags for $name {
            const GROUPS: &'static [$crate::cli::flags::Group] =
                &[$(($heading, &[$(stringify!($field)),*])),*];

            fn config(&self) -> $crate::config::Config {
                let mut config = $crate::config::Config::default();
                $($($(
                    if let Some(value) = &self.$field {
                        config.$($setting).+ = value.clone().into();
                    }
                )?)*)*
                config
            }

            fn given(&self) -> (bool, bool) {
                (self.topic.is_some(), self.group.is_some())
            }
        }
    };
}

pub(super) use flags;
