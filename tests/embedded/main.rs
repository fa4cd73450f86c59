//! What needs no Kafka: the pipeline over the embedded topic, the built binary, its commands, the HTTP
//! API, and the project's own rules. Several tests run side by side; none takes long.

mod bad_input;
mod bad_input_brokers;
mod bad_input_files;
mod broken_answers;
mod cli;
mod commits;
mod crashes;
mod cursor_moves;
mod dead_letter_topic;
mod dead_letters;
mod environment;
mod exec_leaks;
mod exec_step;
mod fuzz;
mod layout;
mod log_surprises;
mod metrics;
mod old_data;
mod orphans;
mod outages;
mod pipeline;
mod pipeline_bisect;
mod pipeline_cuts;
mod pipeline_leaders;
mod pipeline_missing;
mod pipeline_order;
mod pipeline_restarts;
mod private_files;
mod replay;
mod running_mb;
mod sensor;
mod sensor_partitions;
mod shortage;
mod signals;
mod steer_commands;
mod steering;
#[path = "../support/mod.rs"]
mod support;
mod tidy;
mod verdict;
mod version;
mod watch;
mod web;
mod web_api;
