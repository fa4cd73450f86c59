//! A list of Kafka servers as people write it, and as Kafka's own tools take it: blanks around the commas, empty
//! entries and `PLAINTEXT://` before an address are fine. Nothing here connects.

/// What a list of servers looks like, for error messages.
const RULE: &str = "HOST:PORT[,HOST:PORT…], as in localhost:9092";

/// The listeners of Kafka that mb cannot speak to yet, as they stand before an address.
const NOT_YET: &[&str] = &["SSL", "SASL_SSL", "SASL_PLAINTEXT"];

/// The list in its normal form: `HOST:PORT[,HOST:PORT…]`, without anything else.
///
/// # Errors
/// The rule that the list breaks; it follows "expected".
pub fn parse_servers(text: &str) -> Result<String, String> {
    let mut servers = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let address = match entry.split_once("://") {
            None => entry,
            Some((name, address)) if name.eq_ignore_ascii_case("PLAINTEXT") => address,
            Some((name, _)) if NOT_YET.iter().any(|known| name.eq_ignore_ascii_case(known)) => {
                return Err(format!(
                    "the HOST:PORT of a plaintext listener: {name}:// is not supported yet (mb speaks neither \
                     TLS nor SASL)"
                ));
            }
            Some(_) => return Err(RULE.to_owned()),
        };
        if !is_address(address) {
            return Err(RULE.to_owned());
        }
        servers.push(address);
    }
    if servers.is_empty() { Err(RULE.to_owned()) } else { Ok(servers.join(",")) }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(|c: char| matches!(c, '/' | ';') || c.is_whitespace())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_taken_as_kafkas_tools_take_it() {
        for (written, meant) in [
            ("localhost:9092", "localhost:9092"),
            ("a:1,b:2", "a:1,b:2"),
            ("a:1, b:2", "a:1,b:2"),
            (" a:1 ,\tb:2 ", "a:1,b:2"),
            ("a:1,", "a:1"),
            (",a:1,,b:2,", "a:1,b:2"),
            ("PLAINTEXT://a:1", "a:1"),
            ("plaintext://a:1, PLAINTEXT://[::1]:9092,", "a:1,[::1]:9092"),
        ] {
            assert_eq!(parse_servers(written).as_deref(), Ok(meant), "{written:?}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused_with_the_rule() {
        for bad in [
            "",
            " ",
            ",",
            "localhost",
            "a:0",
            "a:70000",
            "http://a:9092",
            "PLAINTEXT://",
            "PLAINTEXT://a",
            "PLAINTEXT://a/b:1",
            ":9092",
            "a:1;b:1",
            "a b:1",
            "a:1 b:2",
        ] {
            assert_eq!(parse_servers(bad), Err(RULE.to_owned()), "{bad:?}");
        }
    }

    #[test]
    fn a_listener_that_mb_cannot_speak_to_is_named() {
        for bad in ["SSL://a:1", "a:1, SASL_SSL://a:2", "sasl_plaintext://a:1"] {
            let rule = parse_servers(bad).unwrap_err();
            assert!(rule.contains("is not supported yet"), "{bad}: {rule}");
        }
    }
}
