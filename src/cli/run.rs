//! The main job: `mb` without a subcommand.

use std::sync::Arc;

use crate::cli::args::{RunArgs, StepChoice};
use crate::cli::terminal::Terminal;
use crate::model::error::Result;
use crate::pipeline::Pipeline;
use crate::pipeline::signals;
use crate::step::{Delayed, Discard, ExecStep, FilesStep, LogStep, Step};

/// Runs until a signal, or until caught up.
///
/// # Errors
/// Whatever ended it, but for an orderly stop.
pub fn run(args: RunArgs, terminal: &Terminal) -> Result<()> {
    let step = step(&args);
    let stop = signals::stop()?;
    let until_caught_up = args.config.until_caught_up;
    let mut pipeline = Pipeline::new(args.config, step);
    if until_caught_up && terminal.is_watched() {
        let terminal = terminal.clone();
        let mut bar = None;
        pipeline = pipeline.with_progress(Box::new(move |done, to_do| {
            bar.get_or_insert_with(|| terminal.bar(to_do, "done")).set(done);
        }));
    }
    pipeline.run(&stop)?;
    Ok(())
}

fn step(args: &RunArgs) -> Arc<dyn Step> {
    let step: Box<dyn Step> = match &args.step {
        StepChoice::Discard => Box::new(Discard),
        StepChoice::Log => Box::new(LogStep::new()),
        StepChoice::Files { dir } => Box::new(FilesStep::new(dir)),
        StepChoice::Exec { command } => {
            let data_dir = &args.config.connection.data_dir;
            Box::new(ExecStep::new(command.clone(), args.config.step_timeout).scratch_dir(data_dir))
        }
    };
    if args.step_delay.is_zero() {
        Arc::new(step)
    } else {
        Arc::new(Delayed::new(args.step_delay, step))
    }
}
