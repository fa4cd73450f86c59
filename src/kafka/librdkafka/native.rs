//! What librdkafka's C interface has and crate rdkafka does not wrap: reading records in batches, and pausing one
//! partition. All of this backend's unsafe code is here; what records and errors mean is decided by the callers.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::NonNull;
use std::slice;
use std::time::Duration;
use std::vec::Drain;

use rdkafka::bindings as ffi;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer as _};

use super::context::{Client, Context, Failure};
use crate::config::limits;
use crate::model::batch::Record;
use crate::model::headers::{self, Headers};
use crate::model::offset::{Epoch, Offset, Partition};

/// A C object that only this value owns, and that is destroyed with it.
struct Owned<T> {
    object: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// `None` for null.
    ///
    /// # Safety
    /// `object` is null, or nobody else destroys it and `destroy` is the function that does. Everything that it
    /// depends on (above all its client) must outlive the value.
    unsafe fn new(object: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Owned<T>> {
        Some(Owned { object: NonNull::new(object)?, destroy })
    }

    fn get(&self) -> *mut T {
        self.object.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: `new` was promised that the object is ours and that this destroys it.
        unsafe { (self.destroy)(self.object.as_ptr()) }
    }
}

/// Adds the servers to a producer's list again. A broker that is shutting down or starting may answer for a
/// moment that the cluster has no brokers. librdkafka (2.12.1) then forgets every broker it knows and has none
/// left to ask, for ever.
pub(super) fn add_brokers(producer: &BaseProducer<Context>, servers: &str) {
    let Ok(servers) = CString::new(servers) else { return };
    // SAFETY: the client lives as long as `producer`, and the text is copied by the call.
    unsafe { ffi::rd_kafka_brokers_add(producer.client().native_ptr(), servers.as_ptr()) };
}

/// Partitions being read. Their records, ends and errors come out of one queue, in order for each partition.
pub(super) struct Records {
    // Fields are dropped in this order: messages first, then the handles, the client last.
    taken: Vec<Message>,
    queue: Owned<ffi::rd_kafka_queue_t>,
    topic: Owned<ffi::rd_kafka_topic_t>,
    client: Client,
}

// SAFETY: librdkafka's handles may be used and destroyed on any thread (rdkafka.h: "the API is
// completely thread-safe"); a `Message` is reachable through this value only.
unsafe impl Send for Records {}

impl Records {
    /// Starts to fetch each partition at its offset.
    pub(super) fn start(
        client: Client,
        topic: &str,
        from: &[(Partition, Offset)],
    ) -> Result<Records, Failure> {
        let native = client.client().native_ptr();
        let name = c_string(topic)?;
        // SAFETY: `native` lives as long as `client`, which the value keeps longer than the two
        // handles; a null configuration means the client's own.
        let (queue, handle) = unsafe {
            (
                Owned::new(ffi::rd_kafka_queue_new(native), ffi::rd_kafka_queue_destroy),
                Owned::new(
                    ffi::rd_kafka_topic_new(native, name.as_ptr(), std::ptr::null_mut()),
                    ffi::rd_kafka_topic_destroy,
                ),
            )
        };
        let (Some(queue), Some(handle)) = (queue, handle) else { return Err(last_failure()) };
        let taken = Vec::with_capacity(limits::RDKAFKA_TAKE_RECORDS);
        let records = Records { taken, queue, topic: handle, client };
        for (partition, offset) in from {
            records.start_partition(*partition, *offset)?;
        }
        Ok(records)
    }

    /// Fetches the partition from `offset` on. It must not be started already.
    pub(super) fn start_partition(
        &self,
        partition: Partition,
        offset: Offset,
    ) -> Result<(), Failure> {
        // SAFETY: both handles are alive. A second start would be refused.
        let started = unsafe {
            ffi::rd_kafka_consume_start_queue(
                self.topic.get(),
                partition,
                offset.get(),
                self.queue.get(),
            )
        };
        if started == 0 { Ok(()) } else { Err(last_failure()) }
    }

    /// Stops fetching the partition, which must be started. Its messages in the queue are outdated from here on:
    /// librdkafka drops them.
    pub(super) fn stop_partition(&self, partition: Partition) -> Result<(), Failure> {
        // SAFETY: the handle is alive. The call waits for librdkafka's main thread, which waits for
        // no broker (and nothing was stored that it would commit first).
        let stopped = unsafe { ffi::rd_kafka_consume_stop(self.topic.get(), partition) };
        if stopped == 0 { Ok(()) } else { Err(last_failure()) }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The messages that are there, up to `limits::RDKAFKA_TAKE_RECORDS`; waits at most `wait` for the first.
    pub(super) fn take(&mut self, wait: Duration) -> Drain<'_, Message> {
        debug_assert!(self.taken.is_empty(), "a drain empties it, however it ends");
        self.fill(Duration::ZERO, limits::RDKAFKA_TAKE_RECORDS);
        if self.taken.is_empty() && !wait.is_zero() {
            // librdkafka waits until an array is full, so the wait is for an array of one message.
            self.fill(wait, 1);
            if !self.taken.is_empty() {
                self.fill(Duration::ZERO, limits::RDKAFKA_TAKE_RECORDS - 1);
            }
        }
        self.taken.drain(..)
    }

    fn fill(&mut self, wait: Duration, count: usize) {
        let count = count.min(self.taken.capacity() - self.taken.len());
        // SAFETY: the array is the vector's spare capacity, which holds `count` messages, and a `Message` has the
        // layout of a non-null `rd_kafka_message_t *`. librdkafka writes as many pointers as it returns, each
        // non-null and ours from then on; -1 is an error, after which it has written none.
        unsafe {
            let written = ffi::rd_kafka_consume_batch_queue(
                self.queue.get(),
                milliseconds(wait),
                self.taken.as_mut_ptr().add(self.taken.len()).cast(),
                count,
            );
            self.taken.set_len(self.taken.len() + usize::try_from(written).unwrap_or(0));
        }
    }
}

/// A message from librdkafka. It is destroyed when dropped, so exactly once however a loop over messages ends.
#[repr(transparent)]
pub(super) struct Message(NonNull<ffi::rd_kafka_message_t>);

/// What a message contains.
#[derive(Debug)]
pub(super) enum Event<'a> {
    Record {
        partition: Partition,
        record: Record<'a>,
    },
    /// The partition was read to its end: its next record gets this offset or a higher one.
    End {
        partition: Partition,
        next: i64,
    },
    /// `offset` is the one that was to be read, negative if there is none.
    Failure {
        partition: Partition,
        offset: i64,
        failure: Failure,
    },
}

impl Message {
    pub(super) fn partition(&self) -> Partition {
        // SAFETY: the message is alive until `self` is dropped, and nothing changes it.
        unsafe { self.0.as_ref() }.partition
    }

    /// `scratch` receives the record's headers, if it has any.
    pub(super) fn event<'a>(&'a self, scratch: &'a mut Vec<u8>) -> Event<'a> {
        // SAFETY: the message is alive until `self` is dropped, and nothing changes it.
        let message = unsafe { self.0.as_ref() };
        let partition = message.partition;
        match message.err {
            ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => match self.headers(scratch) {
                Ok(headers) => Event::Record { partition, record: self.record(message, headers) },
                Err(failure) => Event::Failure { partition, offset: message.offset, failure },
            },
            ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                Event::End { partition, next: message.offset }
            }
            code => {
                // SAFETY: a NUL-ended string that lives as long as the message.
                let reason = unsafe { text(ffi::rd_kafka_message_errstr(message)) };
                let failure = Failure { code: code.into(), reason };
                Event::Failure { partition, offset: message.offset, failure }
            }
        }
    }

    /// The leader epoch of the batch that the message was in.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        // SAFETY: the message is alive; the call reads a number of it.
        Epoch::checked(unsafe { ffi::rd_kafka_message_leader_epoch(self.0.as_ptr()) })
    }

    /// Encodes the headers one after another; costs almost nothing if there are none.
    /// (librdkafka parses them now, and shows a name up to its first NUL byte only.)
    fn headers<'a>(&self, scratch: &'a mut Vec<u8>) -> Result<Headers<'a>, Failure> {
        scratch.clear();
        let mut list = std::ptr::null_mut();
        // SAFETY: the message is alive and ours alone, so that librdkafka may keep with it what it
        // parses; the list belongs to the message.
        let code = unsafe { ffi::rd_kafka_message_headers(self.0.as_ptr(), &raw mut list) };
        match code {
            ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__NOENT => return Ok(Headers::NONE),
            code => {
                let reason = "its headers are broken".to_owned();
                return Err(Failure { code: code.into(), reason });
            }
        }
        for index in 0.. {
            let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0);
            // SAFETY: the list lives as long as the message, and nothing changes it. At success the
            // name is a NUL-ended string and the value null or `size` bytes, both of the list's.
            unsafe {
                let code = ffi::rd_kafka_header_get_all(
                    list,
                    index,
                    &raw mut name,
                    &raw mut value,
                    &raw mut size,
                );
                // There are no more.
                if code != ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    break;
                }
                let name = CStr::from_ptr(name).to_bytes();
                headers::append(scratch, name, bytes(value.cast(), size));
            }
        }
        Ok(Headers::trusted(scratch))
    }

    fn record<'a>(
        &'a self,
        message: &'a ffi::rd_kafka_message_t,
        headers: Headers<'a>,
    ) -> Record<'a> {
        // SAFETY: `message` is this message, with no error, so `payload` and `key` are null or
        // `len` and `key_len` bytes that live as long as it does. Minus one is "no timestamp".
        unsafe {
            let timestamp = ffi::rd_kafka_message_timestamp(message, std::ptr::null_mut());
            Record {
                offset: Offset::new(message.offset),
                timestamp: (timestamp != -1).then_some(timestamp),
                key: bytes(message.key.cast(), message.key_len),
                value: bytes(message.payload.cast(), message.len),
                headers,
                edited: false,
            }
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: handed over by librdkafka for us to destroy; nothing else holds the pointer.
        unsafe { ffi::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

/// `None` for null, which is not an empty slice.
///
/// # Safety
/// `start` is null or points to `len` bytes that live as long as `'a`.
unsafe fn bytes<'a>(start: *const u8, len: usize) -> Option<&'a [u8]> {
    // SAFETY: promised by the caller.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start, len) })
}

/// # Safety
/// `string` is null or a NUL-ended string that lives through the call.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: promised by the caller.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

fn c_string(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure {
        code: RDKafkaErrorCode::InvalidArgument,
        reason: format!("the name {text:?} has a NUL byte"),
    })
}

/// The calling thread's last error in librdkafka.
fn last_failure() -> Failure {
    // SAFETY: both take no pointer and return a static string or a code.
    let (code, reason) = unsafe {
        let code = ffi::rd_kafka_last_error();
        (code, text(ffi::rd_kafka_err2str(code)))
    };
    Failure { code: code.into(), reason }
}

/// Rounded up, so that a wait of less than a millisecond does not become none.
fn milliseconds(wait: Duration) -> c_int {
    c_int::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}
