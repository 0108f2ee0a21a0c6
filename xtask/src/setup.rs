//! What the tests need beside the Rust toolchain: foreign clients and what checks the page, in folders of this project, and
//! Debian packages: what those need, the cluster's stores, what their clients are built with, a browser, and the tools that
//! check the deployment files.
//!
//! Owns: the list of needs, and installing what lacks. Must not: touch what is there already, start a service.
//! Talks to: `step`, apt-get through `install_packages.sh`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::step::{Step, has, succeeds};

/// Installs packages as root; its text says how.
const INSTALL: &str = include_str!("install_packages.sh");

/// What Debian asks before it starts a service.
const POLICY_FILE: &str = "/usr/sbin/policy-rc.d";

/// Where the foreign clients live, under the root of the project.
const CLIENTS: &str = "tests/clients";

/// Folders with Node packages: the foreign clients, what checks the page and its client, and an example.
const NODE_FOLDERS: [&str; 3] = [CLIENTS, "web", "examples/node"];

/// The file, in what was installed, that holds the list it was installed from.
const STAMP: &str = ".installed-from";

/// Something that the tests call, and the Debian packages that bring it.
struct Need {
    what: &'static str,
    packages: &'static [&'static str],
    is_there: fn() -> bool,
}

const NEEDS: [Need; 21] = [
    Need {
        what: "python3 with venv, for the clients of another language",
        packages: &["python3", "python3-venv"],
        is_there: || python().is_some(),
    },
    Need { what: "node, for the client `ws`", packages: &["nodejs"], is_there: || has("node") },
    Need { what: "npm, to install the client `ws`", packages: &["npm"], is_there: || has("npm") },
    Need { what: "ss, to look at sockets", packages: &["iproute2"], is_there: || has("ss") },
    Need { what: "curl, for the commands of the quick start", packages: &["curl"], is_there: || has("curl") },
    Need {
        what: "protoc and the files that it includes, to build etcd's client",
        packages: &["protobuf-compiler", "libprotobuf-dev"],
        is_there: has_protoc,
    },
    Need { what: "etcd", packages: &["etcd-server"], is_there: || has_anywhere("etcd") },
    Need { what: "etcdctl", packages: &["etcd-client"], is_there: || has_anywhere("etcdctl") },
    Need {
        what: "redis-server and redis-cli",
        packages: &["redis-server", "redis-tools"],
        is_there: || has_anywhere("redis-server") && has_anywhere("redis-cli"),
    },
    Need {
        what: "redis-sentinel",
        packages: &["redis-sentinel"],
        is_there: || has_anywhere("redis-sentinel"),
    },
    Need {
        what: "mariadbd and mariadb-install-db",
        packages: &["mariadb-server-core"],
        is_there: || has_anywhere("mariadbd") && has_anywhere("mariadb-install-db"),
    },
    Need {
        what: "mariadb, the client",
        packages: &["mariadb-client-core"],
        is_there: || has_anywhere("mariadb"),
    },
    Need {
        what: "openssl, for certificates of a test's own",
        packages: &["openssl"],
        is_there: || has("openssl"),
    },
    Need {
        what: "chromium, to open the page in a real browser",
        packages: &["chromium"],
        is_there: || has("chromium"),
    },
    Need {
        what: "a font with Chinese in it, for the browser",
        packages: &["fontconfig", "fonts-wqy-zenhei"],
        is_there: || succeeds("sh", &["-c", "fc-list :lang=zh | grep -q ."]),
    },
    Need {
        what: "docker-compose, to check the compose file; no engine is needed",
        packages: &["docker-compose"],
        is_there: || has("docker-compose"),
    },
    Need {
        what: "kubectl, to render the Kubernetes manifests",
        packages: &["kubernetes-client"],
        is_there: || has("kubectl"),
    },
    Need {
        what: "systemd-analyze, to check the units",
        packages: &["systemd"],
        is_there: || has("systemd-analyze"),
    },
    Need {
        what: "haproxy, to check its configuration",
        packages: &["haproxy"],
        is_there: || has_anywhere("haproxy"),
    },
    Need {
        what: "libseccomp, to run services under the container's profile",
        packages: &["libseccomp2"],
        is_there: || succeeds("python3", &["-c", "import ctypes; ctypes.CDLL('libseccomp.so.2')"]),
    },
    Need { what: "promtool, to check the alerts", packages: &["prometheus"], is_there: || has("promtool") },
];

/// Installs what is missing; says nothing where nothing is.
pub(crate) fn set_up(root: &Path) -> Result<()> {
    install_packages()?;
    let clients = root.join(CLIENTS);
    install_python_packages(root, &clients, "clients-venv")?;
    install_python_packages(root, &root.join("examples/python"), "examples-venv")?;
    NODE_FOLDERS.iter().try_for_each(|folder| install_node_packages(&root.join(folder)))
}

fn install_packages() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !(need.is_there)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    println!("The tests need what this machine lacks:");
    for need in &missing {
        println!("  {}: Debian package {}", need.what, need.packages.join(", "));
    }
    println!("Installing with apt-get needs root or sudo; no service is started by it.");
    if !has("apt-get") {
        bail!("there is no apt-get here: install {} with this system's own tool", packages.join(", "));
    }
    // SAFETY: geteuid has no preconditions.
    let root_already = unsafe { libc::geteuid() } == 0;
    let mut command: Vec<&str> = Vec::new();
    if !root_already {
        if !has("sudo") {
            bail!(
                "neither root nor sudo: run `apt-get install {}` as root, then this again",
                packages.join(" ")
            );
        }
        // A step has no terminal of its own to ask for a password on.
        if !succeeds("sudo", &["-n", "true"]) && !ask_for_sudo() {
            bail!("sudo was refused: run `apt-get install {}` as root, then this again", packages.join(" "));
        }
        command.extend(["sudo", "-n"]);
    }
    command.extend(["sh", "-c", INSTALL, "install_packages.sh", POLICY_FILE]);
    command.extend(&packages);
    Step::new(command[0], &command[1..])
        .called(&format!("apt-get install {}", packages.join(" ")))
        .minutes(20)
        .run(Path::new("/"))
}

/// Lets sudo ask on the terminal, if there is one.
fn ask_for_sudo() -> bool {
    std::process::Command::new("sudo").arg("-v").status().is_ok_and(|status| status.success())
}

/// Whether a program is there, also one of the administrator's, which are not in every user's PATH.
fn has_anywhere(program: &str) -> bool {
    has(program)
        || ["/usr/local/sbin", "/usr/sbin", "/sbin"]
            .iter()
            .any(|folder| Path::new(folder).join(program).is_file())
}

/// Whether there is a protoc that finds the files which come with it; another package has those.
fn has_protoc() -> bool {
    let protoc = std::env::var("PROTOC").unwrap_or_else(|_| "protoc".into());
    succeeds(&protoc, &["--descriptor_set_out=/dev/null", "google/protobuf/empty.proto"])
}

/// A Python that can make virtual environments.
fn python() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| succeeds(python, &["-c", "import venv, ensurepip"]))
}

fn install_python_packages(root: &Path, folder: &Path, name: &str) -> Result<()> {
    let list = folder.join("requirements.txt");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let venv = target.join(name);
    if is_installed(&list, &venv)? {
        return Ok(());
    }
    let python = python().context("python3 with venv is still missing")?;
    let venv_path = venv.to_str().context("the target folder's name is no text")?;
    Step::new(python, &["-m", "venv", "--clear", venv_path]).run(folder)?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"];
    Step::new(&format!("{venv_path}/bin/python"), &pip).run(folder)?;
    stamp(&list, &venv)
}

fn install_node_packages(folder: &Path) -> Result<()> {
    let list = folder.join("package-lock.json");
    let modules = folder.join("node_modules");
    if is_installed(&list, &modules)? {
        return Ok(());
    }
    Step::new("npm", &["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"])
        .run(folder)?;
    stamp(&list, &modules)
}

/// Whether `folder` was installed from the list as it is now.
fn is_installed(list: &Path, folder: &Path) -> Result<bool> {
    let wanted = fs::read(list).with_context(|| format!("cannot read {}", list.display()))?;
    Ok(fs::read(folder.join(STAMP)).is_ok_and(|installed| installed == wanted))
}

fn stamp(list: &Path, folder: &Path) -> Result<()> {
    fs::copy(list, folder.join(STAMP)).context("cannot note what was installed")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    /// Runs the script with an `apt-get` that notes what the policy says, and ends with `code`.
    fn install(folder: &Path, code: i32) -> bool {
        let apt = folder.join("apt-get");
        let policy = folder.join("policy-rc.d");
        let text = format!(
            "#!/bin/sh\n\"{0}\"; echo \"$1 $?\" >>\"{1}/asked\"\nexit {code}\n",
            policy.display(),
            folder.display()
        );
        fs::write(&apt, text).unwrap();
        fs::set_permissions(&apt, fs::Permissions::from_mode(0o755)).unwrap();
        let mut path = OsString::from(folder);
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut sh = Command::new("sh");
        sh.args(["-c", INSTALL, "install_packages.sh"]).arg(&policy).arg("some-package").env("PATH", path);
        sh.status().unwrap().success()
    }

    #[test]
    fn no_service_starts_and_the_policy_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        assert!(install(folder.path(), 0));
        let asked = fs::read_to_string(folder.path().join("asked")).unwrap();
        assert_eq!(asked, "update 101\ninstall 101\n", "the policy did not refuse");
        assert!(!folder.path().join("policy-rc.d").exists());
    }

    #[test]
    fn a_policy_that_was_there_is_put_back_also_after_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy-rc.d");
        fs::write(&policy, "#!/bin/sh\nexit 0\n").unwrap();
        assert!(!install(folder.path(), 7), "the failure was not told");
        assert_eq!(fs::read_to_string(&policy).unwrap(), "#!/bin/sh\nexit 0\n");
        assert!(fs::read_to_string(folder.path().join("asked")).unwrap().starts_with("update 101\n"));
    }

    #[test]
    fn what_a_killed_run_left_is_cleaned_up_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy-rc.d");
        fs::write(folder.path().join("policy-rc.d.kept-by-ringcast"), "the user's").unwrap();
        fs::write(&policy, "#!/bin/sh\n# ringcast set-up\nexit 101\n").unwrap();
        assert!(install(folder.path(), 0));
        assert_eq!(fs::read_to_string(&policy).unwrap(), "the user's");
        assert!(!folder.path().join("policy-rc.d.kept-by-ringcast").exists());
    }
}
