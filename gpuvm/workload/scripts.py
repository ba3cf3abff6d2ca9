"""The small Python programs that run in a guest beside a workload; standard library only."""

MISSING_IMPORTS = """
import importlib.util, sys
print("\\n".join(n for n in sys.argv[1:] if importlib.util.find_spec(n) is None))
"""

# Holds a free port, and accepts whoever tries it, until its input ends. The visitor hangs up first:
# otherwise the port would stay in TIME_WAIT, and TensorFlow's server could not bind it.
HOLD_PORT = """
import select, socket, sys
low, high = int(sys.argv[1]), int(sys.argv[2])
def bind(port):
    s = socket.socket(socket.AF_INET6)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(("::", port)); s.listen(64)
    return s
def first_free():
    if not low:
        return bind(0)
    for port in range(low, high + 1):
        try:
            return bind(port)
        except OSError:
            continue
    sys.exit(3)
s = first_free()
print(s.getsockname()[1], flush=True)
while True:
    ready = select.select([s, sys.stdin], [], [])[0]
    if sys.stdin in ready:
        break
    visitor = s.accept()[0]
    visitor.settimeout(5)
    try:
        visitor.recv(1)
    except OSError:
        pass
    visitor.close()
"""

# Prints each host:port that cannot be reached from here.
TRY_PORTS = """
import socket, sys
for where in sys.argv[1:]:
    host, port = where.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        print(where)
"""

# Starts the command in a session of its own, so that it outlives the SSH connection, and leaves its
# exit status in a file; nothing of the session's own stays open in it.
LAUNCH = """
import json, os, subprocess, sys
task = json.loads(sys.stdin.read())
os.makedirs(os.path.join(task["dir"], "out"), exist_ok=True)
os.chdir(task["dir"])
env = {k: v for k, v in os.environ.items() if k.lower() not in task["without"]}
env.update(task["env"])
for stale in ("exit_status", "out/stdout.log", "out/stderr.log"):
    if os.path.exists(stale):
        os.remove(stale)
if os.fork():
    sys.exit(0)
os.setsid()
null = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(null, number)
with open("out/stdout.log", "wb") as out, open("out/stderr.log", "wb") as err:
    try:
        status = subprocess.call(task["command"], env=env, stdin=null, stdout=out, stderr=err)
    except OSError as error:
        err.write(str(error).encode()); status = 127
with open("exit_status.new", "w") as f:
    f.write(str(status))
os.replace("exit_status.new", "exit_status")
"""

# Prints what is new in the files, from the given offsets on, a JSON object a line, until the
# program has ended; an empty object now and then says that it is still there.
FOLLOW = """
import json, os, sys, time
os.chdir(sys.argv[1])
offsets = json.loads(sys.argv[2])
quiet = 0
def say(**what):
    print(json.dumps(what), flush=True)
while True:
    status = open("exit_status").read() if os.path.exists("exit_status") else None
    news = False
    for name, offset in offsets.items():
        if not os.path.exists(name):
            continue
        with open(name, "rb") as f:
            f.seek(offset)
            data = f.read(1 << 16)
        if data:
            news = True
            offsets[name] = offset + len(data)
            say(file=name, offset=offsets[name], data=data.decode("utf-8", "replace"))
    if status is not None and not news:
        say(exit=int(status))
        break
    quiet = 0 if news else quiet + 1
    if quiet and quiet % 25 == 0:
        say()
    if not news:
        time.sleep(0.2)
"""

# Ends every process that was started for the run, however it moved away from its parent: the run's
# id is in its environment.
KILL = """
import os, signal, sys, time
mark = ("GPUVM_RUN=" + sys.argv[1]).encode()
def alive():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark in open(f"/proc/{pid}/environ", "rb").read().split(b"\\0"):
                if open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z":
                    yield int(pid)
        except OSError:
            continue
for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
    end = time.monotonic() + patience
    for pid in alive():
        try:
            os.kill(pid, number)
        except OSError:
            pass
    while any(True for _ in alive()) and time.monotonic() < end:
        time.sleep(0.05)
"""
