"""The report of a stall says in which task it is, by the task's name at that moment."""

from __future__ import annotations

import pytest
from loops import ok, script

PROGRAM = """
import taut

# A site may speak once a second only, so each stall has a function of its own.
def stall_1(): time.sleep(0.08)  # blocks: it is the stall
def stall_2(): time.sleep(0.08)  # blocks: it is the stall
def stall_3(): time.sleep(0.08)  # blocks: it is the stall
def stall_4(): time.sleep(0.08)  # blocks: it is the stall
def stall_5(): time.sleep(0.08)  # blocks: it is the stall

async def first_step(stall):
    stall()
    names.append(asyncio.current_task().get_name())

async def later_step(stall):
    await asyncio.sleep(0.001)
    stall()

async def main():
    renamed = asyncio.create_task(later_step(stall_1), name="before")
    renamed.set_name("na\\u00efve \\u2603\\x1b")
    await renamed
    await asyncio.create_task(first_step(stall_2))
    await asyncio.create_task(first_step(stall_3), name="x" * 500)
    asyncio.get_running_loop().call_soon(stall_4)  # no task's
    await asyncio.sleep(0)
    await asyncio.create_task(asyncio.sleep(0))
    stall_5()

names = []
told = []
taut.doctor.report_to(told.append, stderr=False)
with asyncio.Runner(loop_factory=new_loop, debug=DEBUG) as runner:
    runner.run(main())
deadline = time.monotonic() + 10
while sum(report.kind == "ended" for report in told) < 5 and time.monotonic() < deadline:
    time.sleep(0.001)  # blocks: no loop runs here
for report in told:
    if report.kind == "began":
        print(report.site.name, ascii(report.cause.partition(", in task ")[2]))
print("stall_2 was in", names[0])
"""


@pytest.mark.parametrize("debug", [False, True])
def test_the_task_is_named(debug: bool) -> None:
    done = script("taut", PROGRAM.replace("DEBUG", str(debug)))
    lines = ok(done).splitlines()
    number = lines.pop().rpartition(" ")[2]  # versions count differently
    assert number.startswith("Task-")
    assert lines == [
        "stall_1 " + ascii("'na\xefve \u2603?'"),
        "stall_2 " + ascii(repr(number)),
        "stall_3 " + ascii(repr("x" * 60)),
        "stall_4 ''",
        "stall_5 " + ascii("'Task-1'"),
    ]
