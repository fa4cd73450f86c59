//! Durations, sizes and rates as people write them, and back into text for messages. Which range a setting
//! takes is declared with its flag in `cli`.

use std::time::Duration;

use crate::config::limits;

/// What `parse_duration` takes, as errors put it.
pub const DURATION_RULE: &str =
    "seconds such as 10 or 0.25, or a number with ms, s, m or h such as 250ms or 5m, up to 8760h";
/// What `parse_bytes` takes.
pub const BYTES_RULE: &str = "whole bytes such as 65536, or a whole number with KiB, MiB or GiB";
/// What `parse_rate` takes.
pub const RATE_RULE: &str =
    "messages per second from 0.001 to 10000000 such as 1000 or 0.5, or max for no limit";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const NANOS_PER_MILLISECOND: u64 = 1_000_000;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_MINUTE: u64 = 60 * NANOS_PER_SECOND;
const NANOS_PER_HOUR: u64 = 60 * NANOS_PER_MINUTE;

/// Reads a duration: seconds, with decimals or without, or a number with a unit. Exact to the nanosecond;
/// further digits are cut off.
///
/// # Errors
/// `DURATION_RULE` for anything else, a negative number, or more than `limits::DURATION_MAX`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let rule = || DURATION_RULE.to_owned();
    let (number, unit) = split_unit(text);
    let unit_nanos = match unit {
        "ms" => NANOS_PER_MILLISECOND,
        "" | "s" => NANOS_PER_SECOND,
        "m" => NANOS_PER_MINUTE,
        "h" => NANOS_PER_HOUR,
        _ => return Err(rule()),
    };
    let nanos = scaled(number, unit_nanos).ok_or_else(rule)?;
    let duration = Duration::from_nanos(nanos);
    if duration > limits::DURATION_MAX { Err(rule()) } else { Ok(duration) }
}

/// Reads a size in bytes, plain or with a unit.
///
/// # Errors
/// `BYTES_RULE` for anything else, a negative number, or a size beyond 64 bits.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let rule = || BYTES_RULE.to_owned();
    let (number, unit) = split_unit(text);
    let unit_bytes = match unit {
        "" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => GIB,
        _ => return Err(rule()),
    };
    parse_whole(number).and_then(|count| count.checked_mul(unit_bytes)).ok_or_else(rule)
}

/// Reads a rate in messages per second; 0, or `max`, is no limit.
///
/// # Errors
/// `RATE_RULE` for anything else.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    if text == "max" {
        return Ok(0.0);
    }
    // `scaled` rather than f64's own parser, which accepts 1e9, inf and nan.
    match scaled(text, NANOS_PER_SECOND).map(|billionths| billionths as f64 / 1e9) {
        Some(0.0) => Ok(0.0),
        Some(rate) if (limits::RATE_MIN..=limits::RATE_MAX).contains(&rate) => Ok(rate),
        _ => Err(RATE_RULE.to_owned()),
    }
}

/// Reads a whole number of digits only.
pub fn parse_whole(text: &str) -> Option<u64> {
    // u64's own parser accepts a leading plus sign.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Writes a duration in the largest unit in which it is a whole number, otherwise in seconds or
/// milliseconds with decimals: `5m`, `90s`, `1.5s`, `250ms`; no time is `0`. `parse_duration` reads it back unchanged.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let whole = |unit: u64| nanos.is_multiple_of(unit.into()).then(|| nanos / u128::from(unit));
    if nanos == 0 {
        "0".to_owned()
    } else if let Some(hours) = whole(NANOS_PER_HOUR) {
        format!("{hours}h")
    } else if let Some(minutes) = whole(NANOS_PER_MINUTE) {
        format!("{minutes}m")
    } else if nanos < NANOS_PER_SECOND.into() {
        with_decimals(0, nanos as u32, 6, "ms")
    } else {
        with_decimals(duration.as_secs(), duration.subsec_nanos(), 9, "s")
    }
}

/// Writes a size in the largest unit in which it is a whole number: `32MiB`, `1500`. `parse_bytes` reads it
/// back unchanged.
pub fn format_bytes(bytes: u64) -> String {
    for (unit_bytes, unit) in [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if bytes > 0 && bytes.is_multiple_of(unit_bytes) {
            return format!("{}{unit}", bytes / unit_bytes);
        }
    }
    bytes.to_string()
}

/// `whole` plus `nanos` in units of 10^-`digits` as a decimal number, without trailing zeros.
fn with_decimals(whole: u64, nanos: u32, digits: usize, unit: &str) -> String {
    let scale = 10_u32.pow(digits as u32);
    let whole = whole + u64::from(nanos / scale);
    let fraction = format!("{:0digits$}", nanos % scale);
    match fraction.trim_end_matches('0') {
        "" => format!("{whole}{unit}"),
        fraction => format!("{whole}.{fraction}{unit}"),
    }
}

/// The number at the beginning and the letters after it.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    text.split_at(end)
}

/// A decimal number times `unit`, rounded down to a whole number; `None` for any other text.
fn scaled(text: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole = parse_whole(whole)?.checked_mul(unit)?;
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // 16 decimals are finer than a nanosecond of an hour; further digits would not change the result.
    let seen = &fraction[..fraction.len().min(16)];
    let fraction =
        u128::from(parse_whole(seen)?) * u128::from(unit) / 10_u128.pow(seen.len() as u32);
    whole.checked_add(u64::try_from(fraction).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_seconds_or_carry_a_unit() {
        for (text, millis) in [
            ("0", 0),
            ("10", 10_000),
            ("0.25", 250),
            ("1.5s", 1500),
            ("250ms", 250),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("0.5h", 1_800_000),
            ("007", 7000),
            ("8760h", 31_536_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration("0.000000001"), Ok(Duration::from_nanos(1)));
        assert_eq!(parse_duration("0.0000000019999"), Ok(Duration::from_nanos(1)));
    }

    #[test]
    fn any_other_text_is_refused_with_the_units_of_durations() {
        for text in [
            "",
            " ",
            "5x",
            "-1",
            "+1",
            "1e3",
            "NaN",
            "inf",
            "infinity",
            ".5",
            "5.",
            "1.2.3",
            "ms",
            "1 s",
            "5S",
            "5min",
            "1d",
            "٣",
            "8761h",
            "18446744073709551616",
            "5s ",
            "0x10",
            "99999999999999999999999999999h",
            "1,5",
        ] {
            let rule = parse_duration(text).expect_err(text);
            assert!(["ms", "s,", "m ", "h "].iter().all(|unit| rule.contains(unit)), "{rule}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_carry_a_unit() {
        for (text, bytes) in
            [("0", 0), ("1500", 1500), ("64KiB", 65_536), ("1MiB", 1 << 20), ("2GiB", 2 << 30)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "64k",
            "64kb",
            "1MB",
            "-1",
            "+1",
            "1.5MiB",
            "KiB",
            "1e6",
            "17179869184GiB",
            "1 MiB",
        ] {
            let rule = parse_bytes(text).expect_err(text);
            assert!(["KiB", "MiB", "GiB"].iter().all(|unit| rule.contains(unit)), "{rule}");
        }
    }

    #[test]
    fn rates_are_above_zero_or_max() {
        assert_eq!(parse_rate("1000"), Ok(1000.0));
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        assert_eq!((parse_rate("max"), parse_rate("0")), (Ok(0.0), Ok(0.0)));
        for text in ["-5", "", "NaN", "inf", "1e3", "0.0001", "10000001", "fast", "5/s"] {
            assert_eq!(parse_rate(text), Err(RATE_RULE.to_owned()), "{text}");
        }
    }

    #[test]
    fn durations_are_written_in_their_largest_whole_unit() {
        for (nanos, text) in [
            (0, "0"),
            (1, "0.000001ms"),
            (1_500_000, "1.5ms"),
            (250_000_000, "250ms"),
            (1_000_000_000, "1s"),
            (1_250_000_000, "1.25s"),
            (90_000_000_000, "90s"),
            (300_000_000_000, "5m"),
            (7_200_000_000_000, "2h"),
        ] {
            assert_eq!(format_duration(Duration::from_nanos(nanos)), text);
        }
    }

    proptest! {
        #[test]
        fn a_duration_comes_back_from_its_text(
            nanos in prop_oneof![
                0..31_536_000_000_000_000_u64,
                (0..31_536_000_000_u64).prop_map(|millis| millis * 1_000_000),
                (0..525_600_u64).prop_map(|minutes| minutes * 60_000_000_000),
            ],
        ) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_size_comes_back_from_its_text(
            bytes in prop_oneof![any::<u64>(), (0..1_u64 << 34).prop_map(|kib| kib << 10)],
        ) {
            prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC*") {
            let _ = (parse_duration(&text), parse_bytes(&text), parse_rate(&text));
        }

        #[test]
        fn seconds_are_read_as_the_standard_library_reads_them(text in "[0-9]{1,6}(\\.[0-9]{1,6})?") {
            let expected = Duration::from_secs_f64(text.parse().unwrap());
            let got = parse_duration(&text).unwrap();
            prop_assert!(got.abs_diff(expected) <= Duration::from_nanos(1), "{got:?} {expected:?}");
        }
    }
}
