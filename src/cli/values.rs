//! Parses the values of flags: one function per kind of value, which returns the value, or the rule that the text
//! breaks. Each command declares which of its flags takes which kind.

use std::time::Duration;

use crate::cli::errors::{either, shown, usage};
use crate::config::servers::parse_servers;
use crate::config::units;
use crate::config::{
    Client, DeadLetterTo, Isolation, OnFailure, OnMissingOffsets, OnOutage, Order, PublicUrl,
    StartFrom,
};
use crate::model::clock;
use crate::model::error::{Error, Result};

/// A whole number from `MIN` to `MAX`.
pub fn whole<const MIN: u64, const MAX: u64, T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    units::parse_whole(text)
        .filter(|value| (MIN..=MAX).contains(value))
        .and_then(|value| T::try_from(value).ok())
        .ok_or_else(|| format!("a whole number from {MIN} to {MAX}"))
}

/// A size from `MIN` to `MAX` bytes.
pub fn size<const MIN: u64, const MAX: u64, T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let range = || {
        let (min, max) = (units::format_bytes(MIN), units::format_bytes(MAX));
        format!("{}, from {min} to {max}", units::BYTES_RULE)
    };
    let bytes = units::parse_bytes(text).map_err(|_| range())?;
    let bytes = Some(bytes).filter(|bytes| (MIN..=MAX).contains(bytes));
    bytes.and_then(|bytes| T::try_from(bytes).ok()).ok_or_else(range)
}

pub fn duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text)
}

/// A duration above 0.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    let rule = || format!("more than 0, as {}", units::DURATION_RULE);
    let duration = units::parse_duration(text).map_err(|_| rule())?;
    if duration.is_zero() { Err(rule()) } else { Ok(duration) }
}

/// A whole number, which may be negative.
pub fn signed(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let value = units::parse_whole(digits).and_then(|value| i64::try_from(value).ok());
    let value = value.map(|value| if digits.len() < text.len() { -value } else { value });
    value.ok_or_else(|| "a whole number such as 10 or -10".to_owned())
}

/// A point in time, as milliseconds since 1970.
pub fn time(text: &str) -> Result<i64, String> {
    clock::parse_ms(text)
}

/// Messages per second; 0 stands for `max`.
pub fn rate(text: &str) -> Result<f64, String> {
    units::parse_rate(text)
}

/// Any text that is not empty.
pub fn text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("one character or more".to_owned()) } else { Ok(text.to_owned()) }
}

/// Addresses of Kafka brokers, in their normal form.
pub fn servers(text: &str) -> Result<String, String> {
    parse_servers(text)
}

pub fn client(text: &str) -> Result<Client, String> {
    choice(
        text,
        &[
            ("auto", Client::Auto),
            ("rdkafka", Client::Rdkafka),
            ("kafka", Client::Kafka),
            ("embedded", Client::Embedded),
        ],
    )
}

pub fn start_from(text: &str) -> Result<StartFrom, String> {
    choice(
        text,
        &[
            ("earliest", StartFrom::Earliest),
            ("latest", StartFrom::Latest),
            ("committed", StartFrom::Committed),
        ],
    )
}

pub fn isolation(text: &str) -> Result<Isolation, String> {
    let levels = [Isolation::ReadCommitted, Isolation::ReadUncommitted];
    choice(text, &levels.map(|level| (level.name(), level)))
}

pub fn on_failure(text: &str) -> Result<OnFailure, String> {
    choice(text, &[("dead-letter", OnFailure::DeadLetter), ("halt", OnFailure::Halt)])
}

pub fn on_outage(text: &str) -> Result<OnOutage, String> {
    let actions =
        [("hold", OnOutage::Hold), ("dead-letter", OnOutage::DeadLetter), ("halt", OnOutage::Halt)];
    choice(text, &actions)
}

/// `store`, `topic:NAME`, `both` or `both:NAME`. Whether Kafka allows the name is checked by
/// `Config::check`.
pub fn dead_letter(text: &str) -> Result<DeadLetterTo, String> {
    let named = |prefix| text.strip_prefix(prefix).filter(|name: &&str| !name.is_empty());
    match text {
        "store" => Ok(DeadLetterTo::Store),
        "both" => Ok(DeadLetterTo::Both(None)),
        _ => named("topic:")
            .map(|name| DeadLetterTo::Topic(name.to_owned()))
            .or_else(|| named("both:").map(|name| DeadLetterTo::Both(Some(name.to_owned()))))
            .ok_or_else(|| "store, topic:NAME, both or both:NAME".to_owned()),
    }
}

pub fn on_missing_offsets(text: &str) -> Result<OnMissingOffsets, String> {
    choice(text, &[("halt", OnMissingOffsets::Halt), ("skip", OnMissingOffsets::Skip)])
}

pub fn order(text: &str) -> Result<Order, String> {
    let orders = [("none", Order::None), ("partition", Order::Partition), ("key", Order::Key)];
    choice(text, &orders)
}

/// The steps of `--step`; a command is `--exec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepName {
    Discard,
    Log,
    Files,
}

pub fn step(text: &str) -> Result<StepName, String> {
    choice(
        text,
        &[("discard", StepName::Discard), ("log", StepName::Log), ("files", StepName::Files)],
    )
}

/// The value of `--listen`: the address of the page, or off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Off,
    /// `host` is a name or an address, IPv6 without its brackets; port 0 is any free one.
    At {
        host: String,
        port: u16,
    },
}

impl Default for Listen {
    fn default() -> Listen {
        Listen::At { host: "127.0.0.1".to_owned(), port: 3000 }
    }
}

/// `off`, `HOST:PORT`, or a port alone, which is on 127.0.0.1. A host that does not exist is an error when mb starts
/// to listen.
pub fn listen(text: &str) -> Result<Listen, String> {
    let rule =
        || "HOST:PORT such as 127.0.0.1:3000, a port from 0 to 65535 alone, or off".to_owned();
    if text == "off" {
        return Ok(Listen::Off);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("127.0.0.1", text));
    let port =
        units::parse_whole(port).and_then(|port| u16::try_from(port).ok()).ok_or_else(rule)?;
    // An IPv6 address contains colons, so it must be in brackets.
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let fits = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    if !fits {
        return Err(rule());
    }
    Ok(Listen::At { host: bare.unwrap_or(host).to_owned(), port })
}

/// The address of the page behind a proxy.
pub fn public_url(text: &str) -> Result<PublicUrl, String> {
    text.parse()
}

fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    Err(either(&names))
}

/// Rows that a list shows without `--limit`.
pub const LIST_LIMIT: u32 = 20;

/// The action that a command's first word names, and the words after it.
///
/// # Errors
/// `Usage` if there is no word, or it is none of `actions`.
pub fn action<'a>(words: &'a [String], actions: &[&str]) -> Result<(&'a str, &'a [String])> {
    match words.split_first() {
        None => usage(format!("ACTION: got none, expected {}", either(actions))),
        Some((action, rest)) if actions.contains(&action.as_str()) => Ok((action, rest)),
        Some((other, _)) => {
            usage(format!("ACTION: got {}, expected {}", shown(other), either(actions)))
        }
    }
}

/// Parses ids: numbers above 0, from the first column of the command `list`. Errors call them `name`.
///
/// # Errors
/// `Usage` for anything else.
pub fn ids(name: &str, words: &[String], list: &str) -> Result<Vec<i64>> {
    let number = |text: &String| {
        let number = units::parse_whole(text).and_then(|number| i64::try_from(number).ok());
        number.filter(|number| *number > 0).ok_or_else(|| {
            Error::Usage(format!(
                "{name}: got {}, expected a number from the first column of {list}",
                shown(text)
            ))
        })
    };
    words.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_out_of_range_is_refused_with_the_range() {
        assert_eq!(whole::<1, 1000, usize>("1000"), Ok(1000));
        for text in ["0", "1001", "-1", "abc", "1e9", "", "1.5", "+5", "99999999999999999999"] {
            let rule = whole::<1, 1000, usize>(text).expect_err(text);
            assert_eq!(rule, "a whole number from 1 to 1000", "{text}");
        }
    }

    #[test]
    fn a_signed_number_may_be_negative() {
        assert_eq!(signed("-10"), Ok(-10));
        assert_eq!(signed("0"), Ok(0));
        assert_eq!(signed("9223372036854775807"), Ok(i64::MAX));
        for text in ["", "-", "--5", "+5", "1.5", "ten", "9223372036854775808", "- 1"] {
            assert_eq!(signed(text), Err("a whole number such as 10 or -10".to_owned()), "{text}");
        }
    }

    #[test]
    fn a_size_out_of_range_is_refused_with_the_range() {
        assert_eq!(size::<1024, 1048576, usize>("1MiB"), Ok(1 << 20));
        for text in ["1023", "2MiB", "64k", ""] {
            let rule = size::<1024, 1048576, usize>(text).expect_err(text);
            assert!(rule.ends_with("from 1KiB to 1MiB"), "{rule}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        assert_eq!(client("rdkafka"), Ok(Client::Rdkafka));
        assert_eq!(client("Kafka").unwrap_err(), "auto, rdkafka, kafka or embedded");
        assert_eq!(on_failure("").unwrap_err(), "dead-letter or halt");
        assert_eq!(dead_letter("both"), Ok(DeadLetterTo::Both(None)));
        assert_eq!(dead_letter("topic:a:b"), Ok(DeadLetterTo::Topic("a:b".into())));
        for text in ["topic", "topic:", "both:", "Store", ""] {
            assert_eq!(dead_letter(text).unwrap_err(), "store, topic:NAME, both or both:NAME");
        }
    }

    #[test]
    fn listen_takes_off_a_port_or_a_host_and_a_port() {
        let at = |host: &str, port| Ok(Listen::At { host: host.to_owned(), port });
        assert_eq!(listen("off"), Ok(Listen::Off));
        assert_eq!(listen("8080"), at("127.0.0.1", 8080));
        assert_eq!(listen("localhost:0"), at("localhost", 0));
        assert_eq!(listen("[::1]:3000"), at("::1", 3000));
        for text in [
            "",
            "on",
            ":3000",
            "localhost",
            "localhost:",
            "a:65536",
            "::1:3000",
            "http://a:1",
            "a b:1",
        ] {
            assert!(listen(text).is_err(), "{text}");
        }
    }
}
