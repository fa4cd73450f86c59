//! Starts one command, with posix_spawn(3) itself: std's `Command` cannot say that a command gets no descriptor
//! of mb's but its three streams.
//!
//! A fork with work before exec (`CommandExt::pre_exec`) could say it too, but copies mb's page tables for each
//! run and makes every page that mb writes meanwhile a fault. How a started command is watched is in `process`.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_short, c_uint, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr;

use rustix::process::Pid;

/// The first descriptor that is nobody's stream.
const FIRST_OTHER: c_int = 3;

/// A program with its arguments, and mb's environment with changes.
#[derive(Clone, Debug)]
pub struct CommandLine {
    program: CString,
    arguments: Vec<CString>,
    environment: BTreeMap<OsString, OsString>,
}

impl CommandLine {
    /// `program` is an absolute path; no folder is searched for it.
    ///
    /// # Errors
    /// `InvalidInput` if the program or an argument contains NUL.
    pub fn new(program: &str, arguments: &[&str]) -> io::Result<CommandLine> {
        Ok(CommandLine {
            program: CString::new(program)?,
            arguments: arguments.iter().map(|one| CString::new(*one)).collect::<Result<_, _>>()?,
            environment: env::vars_os().collect(),
        })
    }

    pub fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut CommandLine {
        self.environment.insert(name.into(), value.as_ref().to_owned());
        self
    }

    pub fn env_remove(&mut self, name: &str) -> &mut CommandLine {
        self.environment.remove(OsStr::new(name));
        self
    }

    /// Removes all variables whose names begin with `prefix`.
    pub fn env_remove_all(&mut self, prefix: &str) -> &mut CommandLine {
        let is_other = |name: &OsString| !name.as_encoded_bytes().starts_with(prefix.as_bytes());
        self.environment.retain(|name, _| is_other(name));
        self
    }

    /// Starts it in a process group of its own, with these as stdin, stdout and stderr and no other descriptor,
    /// no signal blocked, and SIGPIPE as it is by default (std has mb ignore it).
    ///
    /// # Errors
    /// The system's, if there is no such program, or no room for a process.
    pub fn spawn(&self, streams: [BorrowedFd<'_>; 3]) -> io::Result<Pid> {
        let variables = self.variables()?;
        let environment = pointers(&variables);
        let all: Vec<&CStr> = [self.program.as_c_str()]
            .into_iter()
            .chain(self.arguments.iter().map(CString::as_c_str))
            .collect();
        let arguments = pointers(&all);
        let actions = Actions::new(streams)?;
        let attributes = Attributes::new()?;
        let mut pid = 0;
        // SAFETY: both lists are strings that live until the call is over, with a null pointer behind the last;
        // actions and attributes were initialised.
        check(unsafe {
            libc::posix_spawn(
                &raw mut pid,
                self.program.as_ptr(),
                &raw const actions.0,
                &raw const attributes.0,
                arguments.as_ptr(),
                environment.as_ptr(),
            )
        })?;
        Pid::from_raw(pid).ok_or_else(|| io::Error::other("a command without a process id"))
    }

    fn variables(&self) -> io::Result<Vec<CString>> {
        let variables = self.environment.iter().map(|(name, value)| {
            let mut text = name.clone();
            text.push("=");
            text.push(value);
            Ok(CString::new(text.into_vec())?)
        });
        variables.collect()
    }
}

/// The strings, and the null pointer that ends the list in C.
fn pointers(strings: &[impl AsRef<CStr>]) -> Vec<*mut c_char> {
    let strings = strings.iter().map(|string| string.as_ref().as_ptr().cast_mut());
    strings.chain([ptr::null_mut()]).collect()
}

/// These functions return the error rather than set `errno`.
fn check(code: c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// What the child does before it becomes the command.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new(streams: [BorrowedFd<'_>; 3]) -> io::Result<Actions> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the call initialises what it is given, or fails.
        let mut actions = unsafe {
            check(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
            Actions(actions.assume_init())
        };
        for (number, stream) in (0..FIRST_OTHER).zip(streams) {
            // SAFETY: the actions are initialised; a descriptor that is not open would be an error in the child.
            check(unsafe {
                libc::posix_spawn_file_actions_adddup2(
                    &raw mut actions.0,
                    stream.as_raw_fd(),
                    number,
                )
            })?;
        }
        match close_from() {
            // SAFETY: this is the function of that name, with the type that glibc declares.
            Some(close_from) => check(unsafe { close_from(&raw mut actions.0, FIRST_OTHER) })?,
            None => mark_all(),
        }
        Ok(actions)
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, and used by nobody any more.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

type CloseFrom =
    unsafe extern "C" fn(actions: *mut libc::posix_spawn_file_actions_t, from: c_int) -> c_int;

/// `posix_spawn_file_actions_addclosefrom_np`, which glibc has from 2.34 on. Looked up while mb runs, so that mb
/// can be built where it is missing.
fn close_from() -> Option<CloseFrom> {
    let name = c"posix_spawn_file_actions_addclosefrom_np";
    // SAFETY: the name is a string; the answer is null or the function's address.
    let found: *mut c_void = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: an `Option` of a function pointer is null for `None`, and this function has this type.
    unsafe { std::mem::transmute::<*mut c_void, Option<CloseFrom>>(found) }
}

/// With an older C library: marks all descriptors of mb to be closed in commands. One that librdkafka opens
/// between this and the start of the command is handed on.
fn mark_all() {
    let (first, last) = (FIRST_OTHER as c_uint, c_uint::MAX);
    // SAFETY: the call changes nothing but that mark. A kernel that does not know it (before 5.11) refuses.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Process group and signals of the child.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Attributes> {
        let mut attributes = MaybeUninit::uninit();
        let mut set = MaybeUninit::uninit();
        let flags = libc::POSIX_SPAWN_SETPGROUP
            | libc::POSIX_SPAWN_SETSIGDEF
            | libc::POSIX_SPAWN_SETSIGMASK;
        let flags = c_short::try_from(flags).expect("the flags of posix_spawn fit its type");
        // SAFETY: each call initialises what it is given, or changes what was initialised before it.
        unsafe {
            check(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            let mut attributes = Attributes(attributes.assume_init());
            check(libc::posix_spawnattr_setflags(&raw mut attributes.0, flags))?;
            check(libc::posix_spawnattr_setpgroup(&raw mut attributes.0, 0))?;
            libc::sigemptyset(set.as_mut_ptr());
            check(libc::posix_spawnattr_setsigmask(&raw mut attributes.0, set.as_ptr()))?;
            libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
            check(libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, set.as_ptr()))?;
            Ok(attributes)
        }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, and used by nobody any more.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use rustix::pipe::{PipeFlags, pipe_with};
    use rustix::process::{WaitOptions, waitpid};

    use super::*;

    /// What the shell prints, and its exit code.
    fn run(script: &str, change: impl FnOnce(&mut CommandLine)) -> (String, Option<i32>) {
        let mut command =
            CommandLine::new("/bin/sh", &["-c", script, "sh", "an argument"]).unwrap();
        change(&mut command);
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let null = File::open("/dev/null").unwrap();
        let pid = command.spawn([null.as_fd(), writer.as_fd(), writer.as_fd()]).unwrap();
        drop(writer);
        let mut said = String::new();
        File::from(reader).read_to_string(&mut said).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        (said, status.exit_status())
    }

    #[test]
    fn a_command_gets_its_arguments_its_environment_and_its_streams() {
        let (said, code) = run("echo \"$1 $MB_X\"; echo more >&2; exit 7", |command| {
            command.env("MB_X", "x").env("MB_Y", "y").env_remove("MB_Y");
        });
        assert_eq!((&*said, code), ("an argument x\nmore\n", Some(7)));
        let (said, _) = run("env | grep -c '^MB_Y='", |command| {
            command.env("MB_Y", "y").env_remove("MB_Y");
        });
        assert_eq!(said, "0\n");
    }

    #[test]
    fn a_command_gets_no_descriptor_of_this_process() {
        // Neither is to be closed at exec.
        let handed_on = rustix::pipe::pipe().unwrap();
        // `ls` has one more, of the folder that it lists.
        let (said, _) = run("ls /proc/self/fd | wc -l", |_| {});
        assert_eq!(said.trim(), "4");
        drop(handed_on);
    }

    #[test]
    fn a_command_leads_its_process_group_and_has_sigpipe_and_no_signal_blocked() {
        let (said, _) = run("ps -o pgid= -p $$ | tr -d ' '; echo $$", |_| {});
        let mut lines = said.lines();
        assert!(lines.next() == lines.next() && !said.is_empty(), "{said}");
        // While a shell waits for what it started, it blocks signals itself.
        let (said, _) = run("exec grep -E '^Sig(Blk|Ign)' /proc/self/status", |_| {});
        let set = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
        let sets: Vec<Option<u64>> = said.lines().map(set).collect();
        let [Some(blocked), Some(ignored)] = sets[..] else { panic!("{said}") };
        assert_eq!((blocked, ignored & 1 << (libc::SIGPIPE - 1)), (0, 0));
    }

    #[test]
    fn what_cannot_be_started_is_an_error() {
        let null = File::open("/dev/null").unwrap();
        let streams = || [null.as_fd(), null.as_fd(), null.as_fd()];
        let missing = CommandLine::new("/no/such/program", &[]).unwrap();
        assert_eq!(missing.spawn(streams()).unwrap_err().kind(), io::ErrorKind::NotFound);
        let long = "x".repeat(1 << 18);
        let long = CommandLine::new("/bin/sh", &["-c", &long]).unwrap();
        assert_eq!(long.spawn(streams()).unwrap_err().raw_os_error(), Some(libc::E2BIG));
        assert!(CommandLine::new("/bin/sh", &["a\0b"]).is_err());
    }
}
