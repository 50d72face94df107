"""Makes the files of three static package indexes in `sites`: Go's, cargo's, and Maven's. One package each."""
import hashlib
import io
import json
import pathlib
import tarfile
import zipfile

SITES = pathlib.Path("sites")


def write(path, content):
    file = SITES / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def go():
    module, version = "world.test/shopkit", "v1.0.0"
    files = {"go.mod": f"module {module}\n\ngo 1.21\n", "shopkit.go": "package shopkit\n\nconst Name = \"shopkit\"\n"}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(f"{module}@{version}/{name}", content)
    folder = f"go.world.test/allowed/{module}/@v"
    write(f"{folder}/list", version + "\n")
    write(f"{folder}/{version}.info", json.dumps({"Version": version, "Time": "2025-01-01T00:00:00Z"}))
    write(f"{folder}/{version}.mod", files["go.mod"])
    write(f"{folder}/{version}.zip", archive.getvalue())


def cargo():
    files = {
        "Cargo.toml": '[package]\nname = "shopkit"\nversion = "1.0.0"\nedition = "2021"\n',
        "src/lib.rs": 'pub const NAME: &str = "shopkit";\n',
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"shopkit-1.0.0/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    entry = {"name": "shopkit", "vers": "1.0.0", "deps": [], "features": {}, "yanked": False,
             "cksum": hashlib.sha256(packed.getvalue()).hexdigest()}
    write("crates.world.test/allowed/config.json",
          json.dumps({"dl": "https://crates.world.test/allowed/crates/{crate}/{version}.crate"}))
    write("crates.world.test/allowed/sh/op/shopkit", json.dumps(entry) + "\n")
    write("crates.world.test/allowed/crates/shopkit/1.0.0.crate", packed.getvalue())


def maven():
    pom = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>test.world</groupId><artifactId>shopkit</artifactId><version>1.0.0</version><packaging>pom</packaging></project>
"""
    file = "maven.world.test/allowed/test/world/shopkit/1.0.0/shopkit-1.0.0.pom"
    write(file, pom)
    write(file + ".sha1", hashlib.sha1(pom.encode()).hexdigest())


go()
cargo()
maven()
