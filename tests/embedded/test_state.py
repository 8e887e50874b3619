"""What a data directory remembers, and that nobody else is given it meanwhile."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedded.state import State, open_state

_HOLD = """
import sys
from pathlib import Path
from embedded.state import open_state
with open_state(Path(sys.argv[1])) as state:
    print(state.port("nats"), flush=True)
    sys.stdin.read()
"""


@contextmanager
def copy_of(data: Path, name: str) -> Iterator[State]:
    """Open a directory that remembers the same ports."""
    copied = data.with_name(name)
    copied.mkdir()
    shutil.copy(data / "state.json", copied)
    with open_state(copied) as state:
        yield state


def test_a_port_that_nobody_listens_on_yet_is_given_to_no_other_data_directory(data_directory: Path) -> None:
    data = data_directory / "data"
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(data)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout
        port = int(holder.stdout.readline())
        with copy_of(data, "beside") as beside:
            assert beside.port("nats") != port
    finally:
        holder.kill()
        holder.communicate()

    # Who is killed keeps nothing, and the next one has it while it is open.
    with copy_of(data, "after") as after:
        assert after.port("nats") == after.port("nats") == port
        with copy_of(data, "same process") as same:
            assert same.port("nats") != port
    with copy_of(data, "at last") as last:
        assert last.port("nats") == port
