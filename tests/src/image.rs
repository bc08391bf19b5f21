//! A container image of a static `busybox` and little else: what runtimes start pods from, without a registry.
//!
//! An archive in the layout of OCI's image specification 1.0, which containerd imports and podman loads.

use std::{env::consts::ARCH, fmt::Write as _, fs, sync::OnceLock};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::settings;

/// The image's name, as runtimes know it once they have the archive.
pub const NAME: &str = "localhost/pod:1";
/// What [`PAGE`] says.
pub const GREETING: &str = "served by a pod";
/// A page of the server that every pod runs, at port [`crate::published::CONTAINER_PORT`] of all its addresses.
pub const PAGE: &str = "/index.html";
/// A page that says `<host name of the pod> <address of the client, as the pod sees it>`. IPv4 addresses may be written
/// in IPv6: `[::ffff:10.0.0.1]`.
pub const WHO: &str = "/cgi-bin/who";

/// busybox by its other names.
const PROGRAMS: [&str; 13] =
    ["cat", "hostname", "httpd", "id", "ip", "ls", "nc", "ping", "ping6", "sh", "sleep", "true", "wget"];
/// Serves until it is told to end. Process 1 gets no signal that it has not asked for.
const INIT: &str = "#!/bin/sh
trap 'exit 0' TERM INT
httpd -f -p 80 -h /www &
while :; do
    sleep 3600 &
    wait $!
done
";
/// A browser's idea of a program: headers, an empty line, the page.
const WHO_SCRIPT: &str = "#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
echo \"$(hostname) $REMOTE_ADDR\"
";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// The archive, as a tar file. Skips the test where there is no static busybox.
pub fn archive() -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let path = settings::busybox();
        match fs::read(&path) {
            Ok(busybox) => pack(&busybox),
            Err(error) => crate::skip(format!("no busybox to make an image of: {}: {error}", path.display())),
        }
    })
}

/// The archive of an image with this busybox.
fn pack(busybox: &[u8]) -> Vec<u8> {
    let layer = Blob::new(LAYER_TYPE, layer(busybox));
    let config = Blob::json(
        CONFIG_TYPE,
        &json!({
            "architecture": architecture(), "os": "linux",
            // A command and no entry point, so that another command can be run instead.
            "config": { "Env": ["PATH=/bin"], "Cmd": ["/init"], "ExposedPorts": { "80/tcp": {} } },
            // Of the layer as it is: it is not compressed.
            "rootfs": { "type": "layers", "diff_ids": [layer.digest()] },
        }),
    );
    let manifest = Blob::json(
        MANIFEST_TYPE,
        &json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": config.descriptor(), "layers": [layer.descriptor()],
        }),
    );
    let mut entry = manifest.descriptor();
    // The first is read by containerd, the second by podman.
    entry["annotations"] = json!({ "io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": NAME });

    let mut files = Files::new();
    files.add("oci-layout", 0o644, json!({ "imageLayoutVersion": "1.0.0" }).to_string().as_bytes());
    files.add("index.json", 0o644, json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().as_bytes());
    for blob in [layer, config, manifest] {
        files.add(&format!("blobs/sha256/{}", blob.hash), 0o644, &blob.content);
    }
    files.finish()
}

/// The root of the file system.
fn layer(busybox: &[u8]) -> Vec<u8> {
    let mut files = Files::new();
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp", "www", "www/cgi-bin"] {
        files.folder(folder);
    }
    files.add("bin/busybox", 0o755, busybox);
    for program in PROGRAMS {
        files.link(&format!("bin/{program}"), "busybox");
    }
    files.add("init", 0o755, INIT.as_bytes());
    files.add("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n");
    files.add("etc/group", 0o644, b"root:x:0:\n");
    files.add(&format!("www{PAGE}"), 0o644, GREETING.as_bytes());
    files.add(&format!("www{WHO}"), 0o755, WHO_SCRIPT.as_bytes());
    files.finish()
}

/// The machine's architecture, as Go spells it.
fn architecture() -> &'static str {
    match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Content that is found by its hash.
struct Blob {
    media_type: &'static str,
    hash: String,
    content: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, content: Vec<u8>) -> Self {
        let hash = Sha256::digest(&content).iter().fold(String::new(), |mut hex, byte| {
            _ = write!(hex, "{byte:02x}");
            hex
        });
        Self { media_type, hash, content }
    }

    fn json(media_type: &'static str, content: &Value) -> Self {
        Self::new(media_type, content.to_string().into_bytes())
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hash)
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest(), "size": self.content.len() })
    }
}

/// A tar file; all in it is root's and as old as Unix.
struct Files(Builder<Vec<u8>>);

impl Files {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn add(&mut self, path: &str, mode: u32, content: &[u8]) {
        let mut header = header(EntryType::Regular, mode);
        header.set_size(content.len().try_into().unwrap());
        self.0.append_data(&mut header, path, content).unwrap();
    }

    fn folder(&mut self, path: &str) {
        self.0.append_data(&mut header(EntryType::Directory, 0o755), path, [].as_slice()).unwrap();
    }

    fn link(&mut self, path: &str, target: &str) {
        self.0.append_link(&mut header(EntryType::Symlink, 0o777), path, target).unwrap();
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}
