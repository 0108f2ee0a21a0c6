#!/usr/bin/env python3
"""Runs a command under a seccomp profile of a container runtime, without a container.

    run_under.py PROFILE.json COMMAND [ARGUMENT...]
    run_under.py --log PROFILE.json COMMAND [ARGUMENT...]

With --log nothing is refused, and the kernel writes what would have been into its log (`dmesg`, lines of type=1326).
The filter is made by libseccomp, which runc uses too; Debian has it as libseccomp2. Needs no privilege.
"""

import ctypes
import json
import os
import platform
import sys

PR_SET_NO_NEW_PRIVS = 38
ALLOW, LOG, ERRNO = 0x7FFF0000, 0x7FFC0000, 0x00050000
# enum scmp_compare of seccomp.h.
COMPARISONS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
# What seccomp_syscall_resolve_name answers to a name that no architecture has.
NO_SUCH_CALL = -1


class Comparison(ctypes.Structure):
    _fields_ = [
        ("argument", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("value", ctypes.c_uint64),
        ("value_two", ctypes.c_uint64),
    ]


def action(name, errno):
    match name:
        case "SCMP_ACT_ALLOW":
            return ALLOW
        case "SCMP_ACT_LOG":
            return LOG
        case "SCMP_ACT_ERRNO":
            return ERRNO | errno
    sys.exit(f"the action {name} is not known here")


def library():
    try:
        seccomp = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        sys.exit("there is no libseccomp.so.2: install libseccomp2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    seccomp.seccomp_load.argtypes = [ctypes.c_void_p]
    seccomp.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(Comparison),
    ]
    return seccomp


def add(seccomp, filters, rule, default):
    wanted = action(rule["action"], rule.get("errnoRet", 1))
    if wanted == default:
        # libseccomp takes no rule that says what is so without it.
        return
    given = rule.get("args") or []
    comparisons = (Comparison * max(1, len(given)))()
    for place, arg in enumerate(given):
        # A masked comparison has the mask first and what has to be left of the argument second.
        comparisons[place] = (arg["index"], COMPARISONS[arg["op"]], arg["value"], arg.get("valueTwo", 0))
    for name in rule["names"]:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number == NO_SUCH_CALL:
            # As runc does; a filter is often written for more calls than one machine has.
            print(f"no system call is called {name}: left out", file=sys.stderr)
            continue
        error = seccomp.seccomp_rule_add_array(filters, wanted, number, len(given), comparisons)
        if error != 0:
            sys.exit(f"{name}: {os.strerror(-error)}")


def main():
    arguments = sys.argv[1:]
    only_log = arguments[:1] == ["--log"]
    if only_log:
        arguments.pop(0)
    if len(arguments) < 2:
        sys.exit(__doc__)
    with open(arguments[0], encoding="utf-8") as file:
        profile = json.load(file)
    default = action(profile["defaultAction"], profile.get("defaultErrnoRet", 1))
    if only_log:
        default = LOG
    seccomp = library()
    filters = seccomp.seccomp_init(default)
    for rule in profile["syscalls"]:
        add(seccomp, filters, rule, default)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        sys.exit(f"PR_SET_NO_NEW_PRIVS: {os.strerror(ctypes.get_errno())}")
    error = seccomp.seccomp_load(filters)
    if error != 0:
        sys.exit(f"the filter on {platform.machine()}: {os.strerror(-error)}")
    os.execvp(arguments[1], arguments[1:])


main()
