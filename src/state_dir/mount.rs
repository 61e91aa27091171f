//! Mounts that are shared with other machines: network file systems, and what container machines mount from their host.
//!
//! On such a mount, locks and shared memory are not those of one kernel, and SQLite's promises do not hold. `statfs` tells
//! only some of them apart (every FUSE file system looks alike); `/proc/self/mountinfo` names the type. No library was
//! taken for it: the crates that parse the file lack the rule for mounts that hide others, or pull in much more.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What to do where the state directory is on a mount that is shared with other machines, such as NFS, CIFS, FUSE, virtiofs,
/// 9P, or a bind mount of Docker Desktop and other container machines. There, other processes may damage the database,
/// whatever SQLite does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SharedMounts {
    /// Log a warning by `tracing`, with the field `code = "SHARED_MOUNT"`, and go on.
    #[default]
    Warn,
    /// Fail with [`Error::SharedMount`].
    Refuse,
    /// Go on.
    Allow,
}

/// A mount that is shared with other machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedMount {
    /// The type of the file system, for instance `fuse.sshfs`.
    pub(crate) file_system: String,
    pub(crate) mount_point: PathBuf,
}

impl SharedMounts {
    /// Fails where the option says so; also where the state directory does not exist yet.
    pub(crate) fn refuse(self, state_dir: &Path) -> Result<()> {
        let shared = if self == Self::Refuse { shared_mount(state_dir) } else { None };
        let Some(SharedMount { file_system, mount_point }) = shared else { return Ok(()) };
        Err(Error::SharedMount { path: state_dir.to_path_buf(), file_system, mount_point })
    }

    /// Warns where the option says so.
    pub(crate) fn warn(self, state_dir: &Path) {
        let shared = if self == Self::Warn { shared_mount(state_dir) } else { None };
        let Some(SharedMount { file_system, mount_point }) = shared else { return };
        tracing::warn!(
            code = "SHARED_MOUNT",
            path = %state_dir.display(),
            %file_system,
            mount_point = %mount_point.display(),
            "the state directory is on a mount that is shared with other machines; SQLite needs a local disk"
        );
    }
}

/// The mount of a directory, or of the one in which it is to be made, where it is shared with other machines.
pub(crate) fn shared_mount(directory: &Path) -> Option<SharedMount> {
    let here = |path: &Path| fs::canonicalize(if path.as_os_str().is_empty() { Path::new(".") } else { path }).ok();
    let directory = directory.ancestors().find_map(here)?;
    match fs::read("/proc/self/mountinfo") {
        Ok(mounts) => {
            let mount = containing_mount(&mounts, &directory, mount_id(&directory))?;
            is_shared(&mount.file_system).then_some(mount)
        }
        Err(_) => by_statfs(&directory),
    }
}

/// Whether a file is a mount by itself, as a bind mount of one file makes it: on another mount than its directory. `false`
/// where the kernel does not tell.
pub(crate) fn is_mounted_file(file: &Path) -> bool {
    let directory = file.parent().and_then(mount_id);
    directory.is_some() && mount_id(file).is_some_and(|mount| Some(mount) != directory)
}

/// The number of the mount of a directory in `mountinfo`, where the kernel tells (Linux 5.8).
fn mount_id(directory: &Path) -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

        let found = statx(CWD, directory, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
        (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = directory;
        None
    }
}

/// The mount that contains a directory, by the content of `/proc/self/mountinfo`: the one with that number, or else the one
/// with the longest mount point, of several the last one, which hides the others.
fn containing_mount(mounts: &[u8], directory: &Path, id: Option<u64>) -> Option<SharedMount> {
    let mut found = None;
    for line in mounts.split(|byte| *byte == b'\n') {
        // `36 35 98:0 /root /mount\040point rw,noatime master:1 - ext4 /dev/sda1 rw`
        let words: Vec<_> = line.split(|byte| *byte == b' ').collect();
        let Some(end) = words.iter().position(|word| *word == b"-") else { continue };
        let (Some(number), Some(point), Some(kind)) = (words.first(), words.get(4), words.get(end + 1)) else {
            continue;
        };
        let mount_point = unescape(point);
        let mount = || SharedMount {
            file_system: String::from_utf8_lossy(kind).into_owned(),
            mount_point: mount_point.clone(),
        };
        if id.is_some() && std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()) == id {
            return Some(mount());
        }
        let is_longer = |other: &SharedMount| mount_point.as_os_str().len() >= other.mount_point.as_os_str().len();
        if directory.starts_with(&mount_point) && found.as_ref().is_none_or(is_longer) {
            found = Some(mount());
        }
    }
    found
}

/// A path of `mountinfo`: blanks, tabs, line ends and backslashes stand in it as `\040` and the like.
fn unescape(path: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, others @ ..] = rest {
        let octal = |digit: &u8| (b'0'..=b'7').contains(digit).then(|| u32::from(digit - b'0'));
        let escaped = match others {
            [a, b, c, ..] if *first == b'\\' => octal(a).zip(octal(b)).zip(octal(c)),
            _ => None,
        };
        match escaped.and_then(|((a, b), c)| u8::try_from(a * 64 + b * 8 + c).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[3..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// File systems that other machines share, or the host of a virtual machine; the part of the type before the first dot.
const SHARED: &[&str] = &[
    // FUSE, whatever is behind it: sshfs, grpcfuse and osxfs of Docker Desktop, vmhgfs-fuse, s3fs, glusterfs. Not fuseblk,
    // which is a disk of this machine.
    "fuse",
    // Virtual machines, and with them Docker Desktop, OrbStack, Podman machines, Lima, Colima, WSL.
    "virtiofs",
    "9p",
    "fakeowner",
    "grpcfuse",
    "osxfs",
    "drvfs",
    "vboxsf",
    "vmhgfs",
    "prl_fs",
    "hgfs",
    "mutagen",
    // Networks.
    "nfs",
    "nfs3",
    "nfs4",
    "cifs",
    "smb",
    "smb2",
    "smb3",
    "smbfs",
    "ncpfs",
    "ncp",
    "afs",
    "coda",
    "davfs",
    "sshfs",
    // Clusters.
    "ceph",
    "glusterfs",
    "lustre",
    "gfs",
    "gfs2",
    "ocfs2",
    "gpfs",
    "beegfs",
    "orangefs",
    "pvfs2",
    "moosefs",
    "juicefs",
    "panfs",
    "acfs",
    "vxfs",
];

/// Whether a type of file system is shared with other machines.
fn is_shared(file_system: &str) -> bool {
    let name = file_system.split('.').next().unwrap_or_default().to_ascii_lowercase();
    SHARED.contains(&name.as_str())
}

/// Magic numbers, from `linux/magic.h` and the file systems' own headers, for where `mountinfo` cannot be read.
const MAGIC: &[(u64, &str)] = &[
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x517b, "smb"),
    (0x00c3_6400, "ceph"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "afs"),
    (0x0bd0_0bd0, "lustre"),
    (0x7461_636f, "ocfs2"),
    (0x0116_1970, "gfs2"),
    (0x7375_7245, "coda"),
    (0x6573_5546, "fuse"),
    (0x786f_4256, "vboxsf"),
    (0xbacb_acbc, "vmhgfs"),
];

fn by_statfs(directory: &Path) -> Option<SharedMount> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // 32 bits of it are the magic number; how it is signed differs between machines.
        let found = rustix::fs::statfs(directory).ok()?.f_type as u64 & 0xffff_ffff;
        let (_, name) = MAGIC.iter().find(|(magic, _)| *magic == found)?;
        Some(SharedMount { file_system: (*name).to_owned(), mount_point: directory.to_path_buf() })
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = (directory, MAGIC);
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A line of `mountinfo`, a directory on that mount, and whether the mount is shared.
    const LINES: &[(&str, &str, bool)] = &[
        // Docker Desktop for Mac: VirtioFS, gRPC FUSE, osxfs.
        (
            "1424 1411 0:38 /host_mark/Users /app rw,nosuid,nodev,relatime master:8 - fakeowner /run/host_mark/Users rw,fakeowner",
            "/app",
            true,
        ),
        (
            "1129 1118 0:92 / /app rw,nosuid,nodev,relatime - fuse.grpcfuse grpcfuse rw,user_id=0,group_id=0,allow_other",
            "/app/state",
            true,
        ),
        (
            "410 392 0:50 /Users/me/app /app rw,nosuid,nodev,noatime - fuse.osxfs osxfs rw,user_id=0,group_id=0,allow_other,max_read=1048576",
            "/app",
            true,
        ),
        // Docker Desktop and WSL 2 on Windows; WSL 1.
        (
            "98 65 0:60 / /mnt/c rw,noatime - 9p C:\\134 rw,dirsync,aname=drvfs;path=C:\\;uid=1000;gid=1000;symlinkroot=/mnt/",
            "/mnt/c/Users/me",
            true,
        ),
        ("9 2 0:10 / /mnt/c rw,noatime - drvfs C: rw,uid=1000,gid=1000,case=off", "/mnt/c/x", true),
        // OrbStack, Podman machine, Lima, Colima.
        ("211 180 0:41 /Users/me/app /app rw,relatime - virtiofs mac rw", "/app", true),
        (
            "87 28 0:45 / /Users rw,relatime shared:42 - virtiofs a2a0ee2c717462feb1de2f5afd59de5fd2d8 rw",
            "/Users/me",
            true,
        ),
        (
            "120 28 0:51 / /Users/me rw,relatime shared:60 - 9p mount0 rw,sync,dirsync,access=client,trans=virtio",
            "/Users/me",
            true,
        ),
        (
            "143 28 0:60 / /Users/me rw,nosuid,nodev,relatime - fuse.sshfs :/Users/me rw,user_id=501,group_id=1000,allow_other",
            "/Users/me",
            true,
        ),
        // VirtualBox, VMware, Parallels.
        (
            "60 25 0:44 / /vagrant rw,nodev,relatime shared:30 - vboxsf vagrant rw,iocharset=utf8,uid=1000,gid=1000",
            "/vagrant",
            true,
        ),
        (
            "61 25 0:46 / /mnt/hgfs rw,nosuid,nodev,relatime - fuse.vmhgfs-fuse vmhgfs-fuse rw,user_id=0,group_id=0,allow_other",
            "/mnt/hgfs/s",
            true,
        ),
        ("62 25 0:47 / /media/psf/Home rw,nosuid,nodev,noatime - prl_fs Home rw,sync,share", "/media/psf/Home", true),
        // Networks.
        (
            "70 25 0:48 / /home rw,relatime shared:33 - nfs4 files:/home rw,vers=4.2,rsize=1048576,local_lock=none",
            "/home/me",
            true,
        ),
        ("71 25 0:49 / /srv rw,relatime - cifs //files/srv rw,vers=3.1.1,cache=strict", "/srv/state", true),
        ("72 25 0:53 / /ceph rw,relatime - ceph 10.0.0.1:6789:/ rw,name=admin,acl", "/ceph/x", true),
        ("73 25 0:54 / /g rw,relatime - fuse.glusterfs g:/v rw,user_id=0", "/g", true),
        // Local disks and what container engines make on them.
        ("27 1 254:0 / / rw,relatime - ext4 /dev/root rw", "/home/me", false),
        (
            "28 27 0:30 /@home /home rw,relatime shared:2 - btrfs /dev/nvme0n1p2 rw,ssd,space_cache=v2,subvol=/@home",
            "/home/me",
            false,
        ),
        (
            "900 800 0:66 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/l1:/l2,upperdir=/u,workdir=/w",
            "/state",
            false,
        ),
        ("901 900 254:1 /docker/volumes/v/_data /state rw,relatime master:2 - ext4 /dev/vda1 rw", "/state", false),
        ("902 900 0:24 / /dev/shm rw,nosuid,nodev,noexec - tmpfs shm rw,size=65536k", "/dev/shm/x", false),
        (
            "903 25 8:17 / /media/usb rw,nosuid,nodev,relatime - fuseblk /dev/sdb1 rw,user_id=0,group_id=0,blksize=4096",
            "/media/usb",
            false,
        ),
        ("904 25 0:70 / /sys/fs/fuse/connections rw,relatime - fusectl fusectl rw", "/sys/fs/fuse/connections", false),
        ("905 25 0:71 / /z rw,relatime - zfs tank/z rw,xattr,posixacl", "/z", false),
    ];

    #[test]
    fn shared_mounts_are_told_from_local_ones() {
        for (line, directory, is_shared_mount) in LINES {
            let mounts = format!("27 1 254:0 / / rw,relatime - ext4 /dev/root rw\n{line}\n");
            let mount = containing_mount(mounts.as_bytes(), Path::new(directory), None).unwrap();
            assert_eq!(is_shared(&mount.file_system), *is_shared_mount, "{line}");
            assert!(Path::new(directory).starts_with(&mount.mount_point), "{line}");
        }
    }

    #[test]
    fn of_several_mounts_the_innermost_counts_and_of_these_the_last() {
        let mounts = b"1 0 8:1 / / rw - ext4 /dev/a rw\n\
            2 1 0:1 / /srv rw shared:1 master:2 - nfs4 x:/ rw\n\
            3 2 8:2 / /srv/local rw - xfs /dev/b rw\n\
            4 1 0:2 / /srv/a\\040b\\134c rw - 9p y rw\n\
            5 1 0:3 / /over rw - ext4 /dev/c rw\n\
            6 5 0:4 / /over rw - virtiofs z rw\n\
            not a line\n\
            7 1 0:5 / /srvx rw\n\n";
        let of = |directory: &str, id| containing_mount(mounts, Path::new(directory), id).unwrap().file_system;
        assert_eq!(of("/home", None), "ext4");
        assert_eq!(of("/srv", None), "nfs4");
        assert_eq!(of("/srv/locality", None), "nfs4", "a name is no prefix of another");
        assert_eq!(of("/srv/local/x", None), "xfs");
        assert_eq!(of("/srv/a b\\c/d", None), "9p");
        assert_eq!(of("/srvx", None), "ext4");
        assert_eq!(of("/over/x", None), "virtiofs", "the last one hides the others");
        assert_eq!(of("/srv/local/x", Some(2)), "nfs4", "what the kernel says counts");
        assert_eq!(of("/srv/local/x", Some(99)), "xfs", "a number that is not there says nothing");
        assert_eq!(containing_mount(b"", Path::new("/"), None), None);
    }
}
