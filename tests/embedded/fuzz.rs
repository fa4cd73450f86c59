//! Whatever bytes a broker, a client, a command or a file sends: reading them neither panics nor takes them
//! for what they are not. Kept inputs are in `tests/corpus/`; `make fuzz` looks further.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mb::api::http::{fields, head};
use mb::api::request::Request;
use mb::config::units::{parse_bytes, parse_duration, parse_rate, parse_whole};
use mb::kafka::wire::fuzzing::read_answers;
use mb::model::batch::{Batch, Record};
use mb::model::headers::Headers;
use mb::model::offset::Offset;
use mb::step::parse_failed_file;
use mb::step::record_json::write_lines;
use serde_json::Value;

use crate::support::fuzz::fuzz;

#[test]
fn answers_of_a_broker_are_read_or_refused() {
    fuzz("kafka-answers", read_answers);
}

#[test]
fn a_http_request_is_read_or_refused() {
    fuzz("http", |bytes| {
        let Ok(Some(found)) = head(bytes) else { return };
        assert!(found.bytes <= bytes.len());
        assert!(found.request.path.starts_with('/'));
        let _ = fields(&found.request.query);
        // What follows a head changes nothing about it.
        assert_eq!(head(&bytes[..found.bytes]), Ok(Some(found)));
    });
}

#[test]
fn a_line_on_the_control_socket_is_a_request_or_refused() {
    fuzz("control", |line| {
        let Ok(request) = serde_json::from_slice::<Request>(line) else { return };
        let written = serde_json::to_vec(&request).expect("a request can be written");
        let read = serde_json::from_slice::<Request>(&written).expect("and read");
        assert_eq!(format!("{read:?}"), format!("{request:?}"));
    });
}

#[test]
fn a_value_with_a_unit_is_read_or_refused() {
    fuzz("units", |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let _ = (parse_duration(text), parse_bytes(text), parse_whole(text));
        if let Ok(rate) = parse_rate(text) {
            assert!(rate >= 0.0, "{text}: {rate}");
        }
    });
}

#[test]
fn a_file_of_failed_records_names_records_of_its_batch_or_is_refused() {
    let mut batch = Batch::default();
    for offset in [0, 1, 2, 7, 40, 41, i64::MAX - 1] {
        let offset = Offset::new(offset);
        batch.push(Record { offset, ..Record::default() });
    }
    fuzz("failed-file", |content| {
        let Ok(failed) = parse_failed_file(content, &batch) else { return };
        assert!(failed.iter().all(|record| batch.contains(record.offset)));
        assert!(failed.windows(2).all(|pair| pair[0].offset < pair[1].offset), "each once");
    });
}

#[test]
fn a_record_as_json_is_one_line_that_has_its_bytes() {
    fuzz("record", |bytes| {
        let (key, value) = bytes.split_at(bytes.len() / 2);
        let record = Record {
            offset: Offset::new(7),
            key: Some(key),
            value: Some(value),
            edited: bytes.len() % 2 == 1,
            ..Record::default()
        };
        let mut line = Vec::new();
        write_lines(&mut line, 2, std::iter::once(record)).expect("memory can be written");
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let json: Value = serde_json::from_slice(&line).expect("JSON");
        for (name, expected) in [("key", key), ("value", value)] {
            let read = match &json[name] {
                Value::String(text) => text.clone().into_bytes(),
                _ => STANDARD.decode(json[format!("{name}_base64")].as_str().unwrap()).unwrap(),
            };
            assert_eq!(read, expected, "{name}");
        }
    });
}

#[test]
fn stored_headers_are_read_or_refused() {
    fuzz("headers", |encoded| {
        let Some(headers) = Headers::decode(encoded) else { return };
        for (name, value) in headers.iter() {
            assert!(name.len() + value.map_or(0, <[u8]>::len) <= encoded.len());
        }
    });
}
