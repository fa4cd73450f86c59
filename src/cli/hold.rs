//! `mb retry-now` and `mb give-up`: what a person can do while the running mb holds, as requests to the control
//! socket.

use std::path::PathBuf;

use log::info;

use crate::api::operations::hold::{GiveUp, RetryNow};
use crate::cli::control::perform;
use crate::cli::flags::{Command, Flags, flags};
use crate::cli::terminal::Terminal;
use crate::config::Client;
use crate::model::error::Result;

flags! {
    #[argh(
        description = "Tries now whether the step works again, while mb holds because it failed for every run.",
        example = "mb retry-now"
    )]
    struct RetryNowFlags {}
}

impl Command for RetryNowFlags {
    const NAME: &'static str = "retry-now";
    const SUMMARY: &'static str = "try the step of the running mb now, during a hold";
    const USAGE: &'static [&'static str] = &["[FLAGS]"];
    type Args = PathBuf;

    fn check(self) -> Result<PathBuf> {
        Ok(self.common()?.connection.data_dir)
    }

    fn run(data_dir: PathBuf, _: &Terminal) -> Result<()> {
        if perform(&data_dir, RetryNow {})?.tried {
            info!("the step is tried now: mb status shows whether it works");
        } else {
            info!("nothing is held: the step works, or runs have attempts left");
        }
        Ok(())
    }
}

flags! {
    #[argh(
        description = "Gives up on all runs that have failed and wait, while mb holds because the step failed for every \
            run. Their records become dead letters; runs that have not been tried stay.",
        example = "mb give-up"
    )]
    struct GiveUpFlags {}
}

impl Command for GiveUpFlags {
    const NAME: &'static str = "give-up";
    const SUMMARY: &'static str = "make what the running mb holds dead letters";
    const USAGE: &'static [&'static str] = &["[FLAGS]"];
    type Args = PathBuf;

    fn check(self) -> Result<PathBuf> {
        Ok(self.common()?.connection.data_dir)
    }

    fn run(data_dir: PathBuf, _: &Terminal) -> Result<()> {
        match perform(&data_dir, GiveUp {})?.runs {
            0 => info!("no run is given up on: none that has failed is held"),
            runs => info!("{runs} run(s) are given up on: mb dead-letters shows their records"),
        }
        Ok(())
    }
}
