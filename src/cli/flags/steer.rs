//! The flags of the commands that look at a running mb and act on it.

use argh::{ArgsInfo, FromArgs};

use super::{Client, Connection, Given, PathBuf, values};

command! {
    #[argh(
        usage = "[FLAGS]",
        description = "Says how the mb that runs on the data directory is doing: whether it keeps up, its lag, queue,\n\
            workers, ticks, and what is wrong where something is.",
        example = "{command_name}\n{command_name} --json"
    )]
    struct StatusFlags {
        /// print JSON: what GET /api/v1/status answers
        #[argh(switch)]
        json: bool,
    }
}

command! {
    #[argh(
        usage = "[FLAGS]",
        description = "Pauses the sensors of the running mb: no tick begins by itself any more. Runs that are queued\n\
            already are still processed.",
        example = "{command_name}"
    )]
    struct PauseFlags {}
}

command! {
    #[argh(
        usage = "[FLAGS]",
        description = "Lets the sensors of the running mb tick again after mb pause.",
        example = "{command_name}"
    )]
    struct ResumeFlags {}
}

command! {
    #[argh(
        usage = "[FLAGS]",
        description = "Begins a tick of the running mb now, also where its sensors are paused. With --preview it only\n\
            says what a tick would read.",
        example = "{command_name}\n{command_name} --preview"
    )]
    struct TickFlags {
        /// only say what a tick would read now; nothing is queued
        #[argh(switch)]
        preview: bool,

        /// with --preview: print JSON
        #[argh(switch)]
        json: bool,
    }
}

command! {
    #[argh(
        usage = "[FLAGS] [NAME=VALUE…]",
        description = "Changes settings of the running mb until it ends: rate, max-batch, max-concurrent-runs and\n\
            tick-interval, with the values that the flags of the same names take. Without any it shows them.",
        example = "{command_name} max-batch=200\n\
            {command_name} max-concurrent-runs=10 tick-interval=500ms"
    )]
    struct SetFlags {
        /// what is changed, as in max-batch=200
        #[argh(positional, arg_name = "NAME=VALUE")]
        words: Vec<String>,

        /// print JSON
        #[argh(switch)]
        json: bool,
    }
}

command! {
    #[argh(
        usage = "[FLAGS]",
        description = "Shows how the running mb is doing, redrawn each second until Ctrl-C. Where stdout is no\n\
            terminal it prints one picture.",
        example = "{command_name}"
    )]
    struct TopFlags {}
}
