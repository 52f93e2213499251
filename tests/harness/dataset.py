"""The data set: sources of named packages with fixed hashes, one record per line, in a fixed order."""
import sys
import zipfile

from .core import CACHE, expect, run, say

# PyPI wheels; pip checks the hashes. Sizes are of the text in them.
PACKAGES = {
    "msgraph-sdk==1.16.0": "1dd26ece74c43167818e2ff58b062180233ce7187ad2a061057af1195395c56c",  # 107 MiB
    "msgraph-beta-sdk==1.16.0": "4e379a5837765088ce6657a9eddd080e88d6f02c4350947bc08121c2ea5c6136",  # 195 MiB
    "ansible==10.7.0": "0089f08e047ceb70edd011be009f5c6273add613fbe491e9697c0556c989d8ea",  # 182 MiB
    "pulumi-azure-native==2.79.0": "a07e2f5a8ccedc8181a638154f429e2b1bfcc8e83cddb106bfb1944f67b37861",  # 645 MiB
}
LINE_BYTES_MAX = 512 * 1024
FULL_BYTES = 1 << 30


def data_set(full):
    """The path of the file of lines: more than 1 GiB in full, the first package's 107 MiB otherwise."""
    wanted = list(PACKAGES)[:None if full else 1]
    directory = CACHE / "dataset"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"lines-{len(wanted)}.txt"
    if path.exists():
        return path
    wheels = directory / "wheels"
    requirements = directory / "requirements.txt"
    requirements.write_text("".join(f"{name} --hash=sha256:{PACKAGES[name]}\n" for name in wanted))
    run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "--require-hashes",
         "-d", wheels, "-r", requirements], timeout=1200)
    partial, size = path.with_suffix(".partial"), 0
    with open(partial, "wb") as out:
        for name in wanted:
            stem, version = name.replace("-", "_").split("==")
            wheel, = wheels.glob(f"{stem}-{version}-*.whl")
            for line in lines(wheel):
                out.write(line + b"\n")
                size += len(line) + 1
    expect(not full or size >= FULL_BYTES, f"the data set has {size} bytes")
    say(f"  data set: {size >> 20} MiB of lines from {', '.join(wanted)}")
    partial.rename(path)
    return path


def lines(wheel):
    """The lines of all text files of a wheel, by name; one that is too long for a record comes in parts."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            content = archive.read(name)
            if b"\0" in content:
                continue
            for line in content.splitlines():
                for at in range(0, max(len(line), 1), LINE_BYTES_MAX):
                    yield line[at:at + LINE_BYTES_MAX]
