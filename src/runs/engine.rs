//! The engine: everything that the threads of one running pipeline share. It starts and owns no thread.
//!
//! `pipeline::wiring` makes it once, from the parts that were opened before (log, history, step), and the threads
//! hold it in an `Arc`. A thread that needs less gets only that: the committer, for example, has neither the
//! queue nor the step.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::Sender;

use crate::commit::ledgers::Ledgers;
use crate::config::Config;
use crate::config::steering::Steering;
use crate::history::{History, ScopeId};
use crate::kafka::{Broker, TopicInfo};
use crate::model::budget::Budget;
use crate::model::events::Event;
use crate::model::live::Live;
use crate::runs::cancels::Cancels;
use crate::runs::dead_letters::DeadLetterTopic;
use crate::runs::queue::RunQueue;
use crate::runs::retry::RetryPolicy;
use crate::step::Step;

/// What all threads of a pipeline share.
pub struct Engine {
    pub config: Config,
    /// The topic as it was at the start: its id and its partitions then.
    pub topic: TopicInfo,
    /// The topic's name, shared by all run keys.
    pub topic_name: Arc<str>,
    /// The scope of this group's and topic's ranges in the history.
    pub scope: ScopeId,
    pub broker: Arc<dyn Broker>,
    pub step: Arc<dyn Step>,
    pub history: Arc<History>,
    pub ledgers: Arc<Ledgers>,
    pub queue: Arc<RunQueue>,
    /// The memory for batches: filling, queued and running together (`--queue-bytes`).
    pub budget: Arc<Budget>,
    pub retry: RetryPolicy,
    /// The topic that dead letters are written to; `None` if only the history keeps them.
    pub dead_letters: Option<Arc<DeadLetterTopic>>,
    /// Counters and what each worker is running.
    pub live: Arc<Live>,
    /// Pauses, requested ticks, and the settings that may change.
    pub steering: Arc<Steering>,
    /// How threads report to the supervisor.
    pub events: Sender<Event>,
    /// Set before running steps are ended by force. A step that fails after that was interrupted, and its attempt
    /// does not count.
    pub forced: AtomicBool,
}

/// What an engine is made from.
pub struct Parts {
    pub config: Config,
    pub topic: TopicInfo,
    pub scope: ScopeId,
    pub broker: Arc<dyn Broker>,
    pub step: Arc<dyn Step>,
    pub history: Arc<History>,
    pub ledgers: Arc<Ledgers>,
    pub lasting: Lasting,
    pub events: Sender<Event>,
}

/// What outlives a restart of the pipeline within the process, after its topic was replaced.
#[derive(Clone)]
pub struct Lasting {
    pub live: Arc<Live>,
    pub steering: Arc<Steering>,
    /// Runs that a person cancelled: the restarted pipeline makes the same runs again.
    pub cancels: Arc<Cancels>,
}

impl Lasting {
    pub fn new(config: &Config) -> Lasting {
        Lasting {
            live: Arc::new(Live::new(config.max_concurrent_runs)),
            steering: Arc::new(Steering::new(config)),
            cancels: Arc::default(),
        }
    }
}

impl Engine {
    pub fn new(parts: Parts) -> Engine {
        let Parts { config, topic, scope, broker, step, history, ledgers, lasting, events } = parts;
        let Lasting { live, steering, cancels } = lasting;
        let queue = RunQueue::new(config.queue, config.order, config.queue_bytes);
        Engine {
            topic_name: Arc::from(topic.name.as_str()),
            queue: Arc::new(queue.with_cancels(&cancels)),
            budget: Budget::new(config.queue_bytes),
            retry: RetryPolicy::of(&config),
            dead_letters: DeadLetterTopic::new(&config, step.name()),
            config,
            topic,
            scope,
            broker,
            step,
            history,
            ledgers,
            live,
            steering,
            events,
            forced: AtomicBool::new(false),
        }
    }
}
