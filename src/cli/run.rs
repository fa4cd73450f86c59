//! The main job: `mb` without a subcommand.

use std::sync::Arc;

use crate::cli::args::{RunArgs, StepChoice};
use crate::cli::signals;
use crate::error::Result;
use crate::pipeline::{Pipeline, Stopper};
use crate::step::{Delayed, Discard, ExecStep, FilesStep, LogStep, Step};
use crate::{limits, thread};

/// Runs until a signal, or until caught up.
///
/// # Errors
/// Whatever ended it, but for an orderly stop.
pub fn run(args: RunArgs) -> Result<()> {
    let step = step(&args);
    let signals = signals::listen()?;
    let (stopper, stop) = Stopper::new();
    // A second signal must end mb even where the pipeline waits for a broker.
    thread::spawn("signals", move || {
        for nth in 0.. {
            if signals.recv().is_err() {
                return;
            }
            stopper.stop();
            if nth > 0 {
                std::thread::sleep(limits::SECOND_SIGNAL_GRACE);
                log::error!("ended at once, as asked");
                std::process::exit(2);
            }
        }
    })?;
    Pipeline::new(args.config, step).run(&stop)?;
    Ok(())
}

fn step(args: &RunArgs) -> Arc<dyn Step> {
    let step: Box<dyn Step> = match &args.step {
        StepChoice::Discard => Box::new(Discard),
        StepChoice::Log => Box::new(LogStep::new()),
        StepChoice::Files { dir } => Box::new(FilesStep::new(dir)),
        StepChoice::Exec { command } => {
            Box::new(ExecStep::new(command.clone(), args.config.step_timeout))
        }
    };
    if args.step_delay.is_zero() {
        Arc::new(step)
    } else {
        Arc::new(Delayed { delay: args.step_delay, step })
    }
}
