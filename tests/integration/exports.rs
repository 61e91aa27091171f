//! Exports: which files one may write, and what it leaves alone.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::process::Command;
use std::thread;

use agentmux_state::{Error, StateStore};

use crate::common::program::outcome;
use crate::common::{Base, FIXTURE, TestResult, export, import};

#[test]
fn an_export_never_takes_the_place_of_the_states_own_files() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let backup = base.store()?.backups().create("x")?;
    for path in [base.file("state.db"), base.file("state.db-wal"), base.file("service.lock"), backup.path.clone()] {
        let (status, _, errors) = outcome(&base, &["export", path.to_str().expect("UTF-8")])?;
        assert_eq!(status, Some(1), "{}", path.display());
        assert!(errors.contains("belongs to the state"), "{errors}");
    }
    assert!(export(&base.store()?)? == FIXTURE);
    assert!(base.store()?.backups().verify(None)?[0].ok);
    // By its own name the export goes the way that keeps somebody else's file.
    base.write("current-state.json", "somebody else's")?;
    outcome(&base, &["export", base.file("current-state.json").to_str().expect("UTF-8")])?;
    assert!(fs::read_to_string(base.file("current-state.json"))? == FIXTURE);
    assert!(base.backups()?.iter().any(|name| name.ends_with("-before-first-export.json")));
    Ok(())
}

#[test]
fn an_export_writes_through_links_and_pipes() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let (target, link, pipe) = (base.path().join("target"), base.path().join("link"), base.path().join("pipe"));
    fs::write(&target, "old")?;
    symlink(&target, &link)?;
    assert_eq!(outcome(&base, &["export", link.to_str().expect("UTF-8")])?.0, Some(0));
    assert!(fs::symlink_metadata(&link)?.is_symlink() && fs::read_to_string(&target)? == FIXTURE);
    assert!(Command::new("mkfifo").arg(&pipe).status()?.success());
    let reader = {
        let pipe = pipe.clone();
        thread::spawn(move || fs::read_to_string(pipe))
    };
    assert_eq!(outcome(&base, &["export", pipe.to_str().expect("UTF-8")])?.0, Some(0));
    assert!(reader.join().expect("no panic")? == FIXTURE);
    assert!(fs::metadata(&pipe)?.file_type().is_fifo());
    Ok(())
}

#[test]
fn a_store_that_may_not_write_leaves_the_export_alone() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    base.write("current-state.json", "somebody else's")?;
    let read_only = StateStore::open_read_only(base.state_dir())?;
    assert!(matches!(read_only.refresh_export(), Err(Error::ReadOnly { .. })));
    let first = base.service();
    first.initialize()?;
    let second = base.service();
    second.initialize()?;
    assert!(matches!(first.store()?.refresh_export(), Err(Error::TakenOver { .. })));
    assert_eq!(fs::read_to_string(base.file("current-state.json"))?, "somebody else's");
    assert_eq!(base.backups()?, [""; 0]);
    Ok(())
}
