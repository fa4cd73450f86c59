//! How long a group's coordinator keeps offsets that nobody commits again: its setting `offsets.retention.minutes`.
//!
//! mb is no member of its group, so Kafka forgets the offset of a partition that long after the partition's own last
//! commit, whether mb runs or not (KIP-211).

use std::time::{Duration, Instant};

use kafka_protocol::messages::ApiKey;
use kafka_protocol::messages::describe_configs_request::{
    DescribeConfigsRequest, DescribeConfigsResource,
};
use kafka_protocol::protocol::StrBytes;

use super::client::Wire;
use super::codes::error_name;
use super::reader::{Read, Reader};
use super::session::{Request, broken};
use crate::config::limits::BROKER_CALL_LIMIT;
use crate::model::error::{Error, Result};

const ANSWER_BYTES: usize = 64 * 1024;

const SETTING: &str = "offsets.retention.minutes";

/// Kafka's number for "a broker" as what is configured.
const BROKER: i8 = 4;

impl Wire {
    /// How long the group's coordinator keeps offsets; `None` if it does not have that setting.
    ///
    /// # Errors
    /// `Broker` if the coordinator does not answer, or does not let mb read its settings.
    pub fn offsets_retention(&self, group: &str) -> Result<Option<Duration>> {
        let deadline = Instant::now() + BROKER_CALL_LIMIT;
        let fail = |cause| Error::broker(format!("read {SETTING} of the broker"), cause);
        let brokers = self.brokers(deadline).map_err(fail)?;
        let coordinator = self.coordinator(group, deadline).map_err(fail)?;
        let address = coordinator.map_err(|code| fail(error_name(code)))?;
        let Some((node, _)) = brokers.iter().find(|(_, known)| **known == address) else {
            return Ok(None);
        };
        // A broker answers for itself alone.
        let resource = DescribeConfigsResource::default()
            .with_resource_type(BROKER)
            .with_resource_name(StrBytes::from_string(node.to_string()))
            .with_configuration_keys(Some(vec![StrBytes::from_static_str(SETTING)]));
        let body = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let (code, minutes) = self
            .on(&address, deadline, |session| {
                // Version 1 is the oldest that Kafka 4 has (KIP-896); 3 returns more than is needed here.
                let version = session.version(ApiKey::DescribeConfigs, (1, 2))?;
                let request = Request { api: ApiKey::DescribeConfigs, version, body: &body };
                let answer = session.exchange(&request, ANSWER_BYTES, deadline)?;
                read_minutes(&answer).map_err(broken)
            })
            .map_err(fail)?;
        match code {
            0 => Ok(minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60)))),
            code => Err(fail(error_name(code))),
        }
    }
}

/// The error code of the first broker in the answer, and the setting's value.
pub(super) fn read_minutes(answer: &[u8]) -> Read<(i16, Option<u64>)> {
    let mut reader = Reader::new(answer, false);
    let _throttle_ms = reader.i32()?;
    let brokers = reader.array(|broker| {
        let code = broker.i16()?;
        let _message = broker.string()?;
        let _type = broker.i8()?;
        let _name = broker.string()?;
        let settings = broker.array(|setting| {
            let name = setting.string()?.unwrap_or_default();
            let value = setting.string()?.unwrap_or_default();
            let _read_only = setting.i8()?;
            let _source = setting.i8()?;
            let _sensitive = setting.i8()?;
            setting.array(|synonym| Ok((synonym.string()?, synonym.string()?, synonym.i8()?)))?;
            Ok((name, value.parse().ok()))
        })?;
        let minutes = settings.into_iter().find(|(name, _)| *name == SETTING);
        Ok((code, minutes.and_then(|(_, minutes)| minutes)))
    })?;
    Ok(brokers.into_iter().next().unwrap_or((0, None)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as i16).to_be_bytes()[..], text.as_bytes()].concat()
    }

    #[test]
    fn the_setting_is_found_among_others() {
        let setting = |name: &str, value: &str| {
            [text(name), text(value), vec![1, 5, 0], vec![0, 0, 0, 0]].concat()
        };
        let answer = |settings: &[Vec<u8>]| {
            let head = [&[0, 0, 0, 0][..], &[0, 0, 0, 1], &[0, 0, 0xff, 0xff, 4]].concat();
            let count = (settings.len() as i32).to_be_bytes().to_vec();
            [head, text("1"), count, settings.concat()].concat()
        };
        let other = setting("offsets.retention.check.interval.ms", "5");
        let found = read_minutes(&answer(&[other.clone(), setting(SETTING, "10080")]));
        assert_eq!(found, Ok((0, Some(10_080))));
        assert_eq!(read_minutes(&answer(&[other])), Ok((0, None)));
        assert_eq!(read_minutes(&answer(&[setting(SETTING, "-1")])), Ok((0, None)));
        assert_eq!(read_minutes(&answer(&[])), Ok((0, None)));
    }
}
