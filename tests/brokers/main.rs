//! What needs real Kafka: the conformance suite, the main job, faults, crashes, the soak. The tests
//! share a broker of each version (`Kafka::shared`), unless they kill it or configure it.

mod conformance;
mod dead_letter_topic_on_kafka;
mod faults_broker;
mod faults_disk;
mod faults_log;
mod faults_process;
mod faults_proxy;
mod helpers;
mod kafka_cluster;
mod kafka_crashes;
mod kafka_cuts;
mod kafka_edges;
mod kafka_everything_once;
mod kafka_positions;
mod kafka_trouble;
mod librdkafka_backend;
mod log_surprises;
mod offsets_command;
mod pure_backend;
mod replay_on_kafka;
mod soak;
#[path = "../support/mod.rs"]
mod support;
