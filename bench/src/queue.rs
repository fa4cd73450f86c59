//! librdkafka's batch queue, as bare as it can be used: one array of messages after another.

use rdkafka::bindings as ffi;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::{LONGEST, Result, partitions};

/// What a record's bytes are, as long as they are there.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub partition: i32,
    pub offset: i64,
    pub timestamp: i64,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// Reads all partitions of a topic from their beginning, and hands over each record until there were
/// `count`, and `None` whenever there is nothing more at hand. `headers`: asks for each record's
/// headers, as whoever hands records on whole has to.
///
/// # Errors
/// Where no record comes for `LONGEST`, an error comes in place of one, or one has headers.
pub fn read(
    consumer: &BaseConsumer,
    topic: &str,
    count: u64,
    headers: bool,
    mut each: impl FnMut(Option<Message<'_>>) -> Result<()>,
) -> Result<()> {
    let name = std::ffi::CString::new(topic)?;
    let partitions = partitions(consumer, topic)?;
    let mut seen = 0;
    // SAFETY: the handles are used while `consumer` lives; librdkafka writes as many messages as it
    // says into the array, each is destroyed once, and its bytes are not used behind that.
    unsafe {
        let native = consumer.client().native_ptr();
        let queue = ffi::rd_kafka_queue_new(native);
        let topic = ffi::rd_kafka_topic_new(native, name.as_ptr(), std::ptr::null_mut());
        for partition in &partitions {
            if ffi::rd_kafka_consume_start_queue(topic, *partition, 0, queue) != 0 {
                return Err("the partition cannot be started".into());
            }
        }
        let longest_ms = i32::try_from(LONGEST.as_millis())?;
        let mut messages = [std::ptr::null_mut(); 1000];
        while seen < count {
            let mut got =
                ffi::rd_kafka_consume_batch_queue(queue, 0, messages.as_mut_ptr(), messages.len());
            if got == 0 {
                each(None)?;
                got =
                    ffi::rd_kafka_consume_batch_queue(queue, longest_ms, messages.as_mut_ptr(), 1);
            }
            if got <= 0 {
                return Err(format!("no record for {} s", LONGEST.as_secs()).into());
            }
            seen += got as u64;
            for &message in &messages[..got as usize] {
                if (*message).err != ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    return Err("an error came in place of a record".into());
                }
                if headers {
                    let mut found = std::ptr::null_mut();
                    let code = ffi::rd_kafka_message_headers(message, &raw mut found);
                    if code != ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__NOENT {
                        return Err("a record of the bench has headers".into());
                    }
                }
                each(Some(Message {
                    partition: (*message).partition,
                    offset: (*message).offset,
                    timestamp: ffi::rd_kafka_message_timestamp(message, std::ptr::null_mut()),
                    key: bytes((*message).key, (*message).key_len),
                    value: bytes((*message).payload, (*message).len),
                }))?;
                ffi::rd_kafka_message_destroy(message);
            }
        }
    }
    Ok(())
}

/// # Safety
/// `start` is null or points to `len` bytes that live as long as `'a`.
unsafe fn bytes<'a>(start: *const std::ffi::c_void, len: usize) -> &'a [u8] {
    // SAFETY: promised by the caller.
    if start.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(start.cast(), len) } }
}
