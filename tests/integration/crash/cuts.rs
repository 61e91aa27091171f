//! Power cuts of real file systems: the state lies on a file system in an image, the image is cloned at random moments while a
//! process works, and each clone is mounted, opened and compared with what had been acknowledged.
//!
//! A clone is a reflink (`FICLONE`) on an outer XFS. The kernel clones a file while it holds the lock that every write to the
//! file takes, so a clone is exactly what the block device held at one instant. Unlike a recording of system calls, it has what
//! the kernel wrote by itself: pages of the mapped `-shm` file, at any time and of any age.
//!
//! Everything is mounted in a mount namespace of its own. When its last process ends, however it ends, the kernel unmounts
//! everything and frees the loop devices.
//!
//! The long form: `STATE_TEST_LONG=1 cargo test --release --test integration crash::cuts -- --nocapture --test-threads=1`

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use agentmux_state::{ServiceOptions, StatePersistenceService, StateStore};

use super::ledger::{Ledgers, figures};
use super::{Random, choose, work};
use crate::common::role::{self, said, say, start_under};
use crate::common::skip::skip;
use crate::common::{Base, TestResult};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Runs in a mount namespace and ends with the thread that started it.
const IN_NAMESPACE: [&str; 6] = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--propagation=private", "--"];

/// A process that ends with the one that started it.
const BOUND: [&str; 2] = ["setpriv", "--pdeathsig=KILL"];

/// As after a reboot: another boot id, and a boot time of now.
const REBOOTED: &str = r#"
cat /proc/sys/kernel/random/uuid > "$0/boot_id"
sed "s/^btime .*/btime $(date +%s)/" /proc/stat > "$0/stat"
mount --bind "$0/boot_id" /proc/sys/kernel/random/boot_id
mount --bind "$0/stat" /proc/stat
exec "$@""#;

/// What a process does while the power is cut.
struct Variant {
    name: &'static str,
    /// The role, and its arguments.
    role: &'static str,
    /// What somebody's `sqlite3` shell does beside it.
    shell: Option<&'static str>,
}

const VARIANTS: [Variant; 8] = [
    Variant { name: "updates without pause", role: "paced 0 4", shell: None },
    Variant { name: "every operation", role: "work 1 1", shell: None },
    Variant { name: "a shell truncates the WAL", role: "paced 20 3", shell: Some("PRAGMA wal_checkpoint(TRUNCATE);") },
    Variant { name: "20 updates a second", role: "paced 50 2", shell: None },
    Variant { name: "5 updates a second", role: "paced 200 1", shell: None },
    Variant { name: "threads that share commits", role: "group 1 1", shell: None },
    Variant { name: "a shell reads and writes", role: "paced 20 3", shell: Some(WRITES) },
    Variant { name: "the store is reopened", role: "reopening", shell: None },
];

const WRITES: &str = "SELECT count(*) FROM tasks; \
    INSERT OR IGNORE INTO tasks (id, title, description, status, priority, percent_complete, created_at) \
    VALUES ('of-a-person', '', '', 'paused', 'low', 0, ''); \
    UPDATE tasks SET description = hex(randomblob(3000)) WHERE id = 'of-a-person';";

/// Where a clone is looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    /// On another device, beside the original: as a snapshot that is restored elsewhere.
    Beside,
    /// On the original's device number and mount point, in the same boot: as a snapshot that is restored in place.
    AtOriginal,
    /// The same, with another boot id: as after a power cut.
    Rebooted,
}

/// Updates so many milliseconds apart; one in so many is large, so that the WAL starts anew often.
pub fn update_at_a_pace(base: &Path, arguments: &str) -> TestResult {
    let [pause, large] = work::numbers(arguments);
    let store = StateStore::open(base.join(".agentmux/state"))?;
    say("ready");
    (1..).try_for_each(|number| {
        thread::sleep(Duration::from_millis(pause));
        update(&store, number, large)
    })
}

/// Opens the store, makes a few updates and closes it, without end.
pub fn open_again_and_again(base: &Path, _: &str) -> TestResult {
    say("ready");
    let mut random = Random(5);
    let mut number = 0;
    loop {
        let store = StateStore::open(base.join(".agentmux/state"))?;
        for _ in 0..1 + random.below(30) {
            number += 1;
            update(&store, number, 5)?;
        }
    }
}

fn update(store: &StateStore, number: u64, large: u64) -> TestResult {
    // A number of many digits makes a large task: some 100 pages.
    let width = if number.is_multiple_of(large) { 8_000 } else { 1 };
    let (id, number) = (format!("W-task-{}", number % 20), format!("{number:0width$}"));
    say(&format!("W try {id}={number}"));
    store.update_task(&work::task(&id, &number))?;
    say("W did");
    Ok(())
}

/// Opens the state after a cut and compares it with the ledger, which is a file and two offsets: where the clone was begun, and
/// where it was done.
pub fn look_after_cut(base: &Path, arguments: &str) -> TestResult {
    let mut words = arguments.split(' ');
    let lines = fs::read(words.next().ok_or("a ledger")?)?;
    let [begun, done]: [u64; 2] = work::numbers(words.collect::<Vec<_>>().join(" ").as_str());
    let mut ledgers = Ledgers::default();
    for line in said(&mut &lines[..begun as usize]) {
        ledgers.hear(&line);
    }
    for line in said(&mut &lines[begun as usize..done as usize]) {
        // What was acknowledged while the clone was made may be in it, as what was only tried.
        if line.split(' ').nth(1) != Some("did") {
            ledgers.hear(&line);
        }
    }
    let state_dir = base.join(".agentmux/state");
    match StateStore::open(&state_dir) {
        Ok(store) => drop(store),
        Err(error) => {
            say(&format!("refused by open as {}: {error}", work::kind(&error)));
            return Ok(());
        }
    }
    if let Err(error) = ledgers.verify_in(&state_dir, false) {
        say(&format!("lost: {error}"));
        return Ok(());
    }
    // Work goes on.
    let service = StatePersistenceService::with_options(
        ServiceOptions::default().base_dir(Some(base.to_path_buf())).checkpoint_interval(None),
    );
    let goes_on = service
        .initialize()
        .and_then(|_| service.update_task(&work::task("after", "1")))
        .and_then(|()| service.prepare_for_shutdown());
    say(&goes_on.map_or_else(|error| format!("refused by the service: {error}"), |()| "whole".into()));
    Ok(())
}

/// Runs a program that must succeed; what it printed.
fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the tests is UTF-8")
}

/// A child that is killed when it is dropped.
struct Bound(Child);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An image that is mounted; its loop device is freed when it is unmounted.
struct Mounted {
    at: PathBuf,
    device: String,
}

impl Mounted {
    fn new(image: &Path, at: &Path, kind: &str, device: Option<&str>) -> Result<Self> {
        // The clone of an XFS has the identity of the original, which may be mounted.
        let identity = if kind == "xfs" { ",nouuid" } else { "" };
        let device = device.map(|device| format!("={device}")).unwrap_or_default();
        let options = format!("loop{device}{identity}");
        run("mount", &["-t", kind, "-o", &options, text(image), text(at)])?;
        let device = run("findmnt", &["-n", "-o", "SOURCE", "--mountpoint", text(at)])?;
        Ok(Self { at: at.to_path_buf(), device })
    }

    fn unmount(self) -> TestResult {
        for _ in 0..100 {
            if run("umount", &[text(&self.at)]).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        // The loop device is freed a moment later.
        let backing = PathBuf::from(self.device.replace("/dev/", "/sys/block/")).join("loop/backing_file");
        for _ in 0..100 {
            if !backing.exists() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(format!("{} is not freed", self.device).into())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).stderr(Stdio::null()).status();
    }
}

/// Whether file systems can be made, mounted and cloned here.
fn can_cut(kind: &str) -> bool {
    let can = || -> Result<()> {
        for program in ["setpriv", "unshare", "mount", "findmnt", "mkfs.xfs", &format!("mkfs.{kind}")] {
            run("sh", &["-c", &format!("command -v {program}")]).map_err(|_| format!("there is no {program}"))?;
        }
        let place = tempfile::tempdir()?;
        let outer = Outer::make(place.path())?;
        let script = "mount -t xfs -o loop \"$0\" \"$1\" && echo x > \"$1/x\" && cp --reflink=always \"$1/x\" \"$1/y\"";
        let arguments = [&IN_NAMESPACE[3..], &["sh", "-c", script, text(&outer), text(place.path())]].concat();
        run("unshare", &arguments).map(drop)
    };
    let result = can();
    if let Err(error) = &result {
        skip(&format!("power cuts of {kind}: {error}"));
    }
    result.is_ok()
}

/// The image in which images are cloned.
struct Outer;

impl Outer {
    fn make(directory: &Path) -> Result<PathBuf> {
        let image = directory.join("outer.img");
        // Sparse: it takes what is written to it.
        File::create(&image)?.set_len(32 << 30)?;
        run("mkfs.xfs", &["-q", "-f", "-m", "reflink=1", text(&image)])?;
        Ok(image)
    }
}

/// What the cuts came to.
#[derive(Default)]
struct Figures {
    /// By the kind of place and by what was found.
    found: BTreeMap<(Place, String), usize>,
    refused_by_variant: BTreeMap<&'static str, (usize, usize)>,
    /// Of what was refused: how many were whole once the `-shm` file was gone.
    whole_all_the_same: usize,
    acknowledged: u64,
    same_device: usize,
    /// Different WALs that were found at the cuts.
    generations: usize,
    /// How many there are, and some of each kind in each variant.
    faults: usize,
    some_faults: BTreeMap<(&'static str, String), Vec<String>>,
}

/// A clone that was made while a process worked.
struct Cut {
    image: PathBuf,
    begun: u64,
    done: u64,
    place: Place,
}

/// One image on which one process works, and the clones of it.
struct Life<'a> {
    kind: &'a str,
    variant: &'static Variant,
    /// A directory outside of every image.
    outside: &'a Path,
    outer: &'a Path,
    figures: &'a mut Figures,
}

impl Life<'_> {
    fn ledger(&self) -> PathBuf {
        self.outside.join("ledger")
    }

    fn live(&mut self, cuts: usize, random: &mut Random) -> TestResult {
        let image = self.outer.join("inner.img");
        let _ = fs::remove_file(&image);
        File::create(&image)?.set_len(if self.kind == "xfs" { 320 << 20 } else { 112 << 20 })?;
        run(&format!("mkfs.{}", self.kind), &["-q", text(&image)])?;
        let (at, beside) = (self.outside.join("original"), self.outside.join("beside"));
        fs::create_dir_all(&at)?;
        fs::create_dir_all(&beside)?;
        let original = Mounted::new(&image, &at, self.kind, None)?;
        let identity = |at: &Path| -> Result<(u64, u64)> {
            let metadata = fs::metadata(at.join(".agentmux/state/state.db"))?;
            Ok((metadata.dev(), metadata.ino()))
        };
        let _ = fs::remove_file(self.ledger());
        let lines = File::options().create(true).append(true).open(self.ledger())?;
        let mut worker = Bound(role::command(&BOUND, self.variant.role, &at)?.stdout(lines.try_clone()?).spawn()?);
        let began = Instant::now();
        while !fs::read_to_string(self.ledger())?.contains("did") {
            assert!(began.elapsed() < Duration::from_secs(60), "{} does not begin", self.variant.name);
            thread::sleep(Duration::from_millis(5));
        }
        let mut taken = Vec::new();
        let mut salts = BTreeSet::new();
        for number in 0..cuts {
            self.disturb(&at, random)?;
            if let Some(status) = worker.0.try_wait()? {
                return Err(format!("{}: the worker ended: {status}", self.variant.name).into());
            }
            // The header of the WAL; its salt rises each time that it is begun anew.
            let mut header = [0; 32];
            let wal = File::open(at.join(".agentmux/state/state.db-wal"));
            if wal.and_then(|file| file.read_exact_at(&mut header, 0)).is_ok() {
                salts.insert(header[16..24].to_vec());
            }
            let place = [Place::Rebooted, Place::AtOriginal, Place::Beside][(number + random.below(2)) % 3];
            let clone = self.outer.join(format!("clone-{number}.img"));
            let begun = lines.metadata()?.len();
            run("cp", &["--reflink=always", text(&image), text(&clone)])?;
            let cut = Cut { image: clone, begun, done: lines.metadata()?.len(), place };
            if place == Place::Beside {
                let mounted = Mounted::new(&cut.image, &beside, self.kind, None)?;
                self.look(&cut, &beside)?;
                mounted.unmount()?;
                fs::remove_file(&cut.image)?;
            } else {
                taken.push(cut);
            }
        }
        self.figures.generations += salts.len();
        let database = identity(&at)?;
        drop(worker);
        let device = original.device.clone();
        original.unmount()?;
        for cut in taken {
            // Somebody else may have taken the device meanwhile.
            let mounted = Mounted::new(&cut.image, &at, self.kind, Some(&device))
                .or_else(|_| Mounted::new(&cut.image, &at, self.kind, None))?;
            self.figures.same_device += usize::from(identity(&at)? == database);
            self.look(&cut, &at)?;
            mounted.unmount()?;
            fs::remove_file(&cut.image)?;
        }
        let lines = fs::read_to_string(self.ledger())?;
        self.figures.acknowledged += lines.lines().filter(|line| line.split(' ').nth(2) == Some("did")).count() as u64;
        Ok(())
    }

    /// Lets the `-shm` file or everything be written back, or neither, and time pass until the next cut.
    fn disturb(&self, at: &Path, random: &mut Random) -> TestResult {
        let database = at.join(".agentmux/state/state.db");
        let shared_memory = at.join(".agentmux/state/state.db-shm");
        match random.below(6) {
            0 | 1 => drop(File::open(&shared_memory).and_then(|file| file.sync_data())),
            2 => rustix::fs::syncfs(File::open(at)?)?,
            _ => {}
        }
        let began = Instant::now();
        let length = Duration::from_millis(random.below(choose(400, 700)) as u64);
        while began.elapsed() < length {
            if let Some(sql) = self.variant.shell {
                // It may find the database locked.
                let _ = Command::new("sqlite3").arg(&database).args([".timeout 2000", sql]).output()?;
            }
            thread::sleep(Duration::from_millis(random.below(60) as u64));
        }
        Ok(())
    }

    fn look(&mut self, cut: &Cut, at: &Path) -> TestResult {
        let rebooted = ["unshare", "--mount", "--propagation=private", "--", "sh", "-ec", REBOOTED, text(self.outside)];
        let prefix: &[&str] = if cut.place == Place::Rebooted { &rebooted } else { &[] };
        let ledger = self.ledger();
        let role = format!("after_cut {} {} {}", ledger.display(), cut.begun, cut.done);
        let look = || -> Result<String> {
            let output = role::command(prefix, &role, at)?.stderr(Stdio::inherit()).output()?;
            Ok(said(&mut &output.stdout[..]).next().unwrap_or_else(|| format!("nothing said, {}", output.status)))
        };
        let check = || -> Result<String> {
            let state_dir = at.join(".agentmux/state");
            let program = [env!("CARGO_BIN_EXE_agentmux-state"), "--json", "--state-dir", text(&state_dir), "check"];
            let words = [prefix, &program].concat();
            let output = Command::new(words[0]).args(&words[1..]).output()?;
            let Ok(report) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
                return Ok(format!("refused by check: {}", String::from_utf8_lossy(&output.stderr).trim()));
            };
            let problems = report["problems"].as_array().into_iter().flatten();
            // The image is small.
            let problems: Vec<_> = problems.filter(|problem| problem["kind"] != "space").collect();
            Ok(if problems.is_empty() { "whole".into() } else { format!("check: {problems:?}") })
        };
        // Whoever reads first lets SQLite make the -shm file anew, which may hide what the other one would find.
        let both: [&dyn Fn() -> Result<String>; 2] =
            if cut.begun.is_multiple_of(4) { [&check, &look] } else { [&look, &check] };
        let found = [both[0]()?, both[1]()?].into_iter().find(|found| found != "whole").unwrap_or("whole".into());
        let kind = found.split([':', '{']).next().unwrap_or_default().to_owned();
        if kind != "whole" {
            self.figures.faults += 1;
            let some = self.figures.some_faults.entry((self.variant.name, kind.clone())).or_default();
            if some.len() < 3 {
                let found: String = found.chars().take(400).collect();
                some.push(format!("{}, {:?}: {found}", self.variant.name, cut.place));
            }
        }
        let by_variant = self.figures.refused_by_variant.entry(self.variant.name).or_default();
        by_variant.1 += 1;
        if kind.starts_with("refused") {
            by_variant.0 += 1;
            // As SQLite does by itself.
            fs::remove_file(at.join(".agentmux/state/state.db-shm"))?;
            self.figures.whole_all_the_same += usize::from(look()? == "whole");
        }
        *self.figures.found.entry((cut.place, kind)).or_default() += 1;
        Ok(())
    }
}

/// Cuts the power in a mount namespace. Its arguments: the file system, how many cuts, how many in one life.
pub fn cut_in_namespace(base: &Path, arguments: &str) -> TestResult {
    let (kind, numbers) = arguments.split_once(' ').ok_or("a file system and numbers")?;
    let [cuts, in_one_life] = work::numbers(numbers);
    let began = Instant::now();
    let outer = base.join("outer");
    fs::create_dir(&outer)?;
    let _outer = Mounted::new(&Outer::make(base)?, &outer, "xfs", None)?;
    let mut figures = Figures::default();
    let mut random = Random(cuts);
    let mut made = 0;
    for variant in VARIANTS.iter().cycle() {
        let some = in_one_life.min(cuts - made);
        if some == 0 {
            break;
        }
        made += some;
        Life { kind, variant, outside: base, outer: &outer, figures: &mut figures }.live(some as usize, &mut random)?;
    }
    for fault in figures.some_faults.values().flatten() {
        say(&format!("fault {fault}"));
    }
    let count = |what: &str| {
        figures.found.iter().filter(|((_, kind), _)| kind.starts_with(what)).map(|(_, count)| count).sum::<usize>()
    };
    let by_place: Vec<_> =
        figures.found.iter().map(|((place, kind), count)| format!("{place:?} {kind} {count}")).collect();
    let refused: Vec<_> =
        figures.refused_by_variant.iter().map(|(name, (refused, all))| format!("{name} {refused} of {all}")).collect();
    say(&format!(
        "figures cuts {cuts}, acknowledged {}, generations of the WAL {}, lost {}, refused {} ({} of them whole without -shm), other faults {}; \
         on the original's device and inode {}; by place: {}; refused: {} ({:.0} s)",
        figures.acknowledged,
        figures.generations,
        count("lost"),
        count("refused"),
        figures.whole_all_the_same,
        figures.faults - count("lost") - count("refused"),
        figures.same_device,
        by_place.join(", "),
        refused.join(", "),
        began.elapsed().as_secs_f64()
    ));
    say(&format!("faults {}", figures.faults));
    Ok(())
}

fn cut(kind: &str) -> TestResult {
    if !can_cut(kind) {
        return Ok(());
    }
    let base = Base::new()?;
    let (cuts, in_one_life) = choose((12, 4), (1000, 21));
    let (mut child, mut output) =
        start_under(&IN_NAMESPACE, &format!("power_cuts {kind} {cuts} {in_one_life}"), &base)?;
    let mut faults = Vec::new();
    let mut count = None;
    for line in said(&mut output) {
        match line.split_once(' ') {
            Some(("figures", text)) => figures(&format!("power cuts of a real {kind}"), text)?,
            Some(("fault", text)) => faults.push(text.to_owned()),
            Some(("faults", text)) => count = Some(text.parse::<usize>()?),
            _ => {}
        }
    }
    assert!(child.wait()?.success(), "the cuts of {kind} came to no end");
    assert_eq!(count, Some(0), "faults; the first ones:\n{}", faults.join("\n"));
    Ok(())
}

#[test]
fn a_power_cut_of_a_real_ext4_loses_nothing_and_the_database_opens() -> TestResult {
    cut("ext4")
}

#[test]
fn a_power_cut_of_a_real_xfs_loses_nothing_and_the_database_opens() -> TestResult {
    cut("xfs")
}
