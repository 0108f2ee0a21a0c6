"""Pushes to a room, to a user and to everyone, then many pushes on one stream; a line for each.

    python push.py [ROOM] [USER] [STREAMED]

PUSH_MANAGER_ADDRESS names the push managers, separated by commas (localhost:50053). The exit code is the highest of
all pushes: 0 delivered, 1 not delivered, 2 the command line is wrong, 3 refused, 4 unreachable or unknown.
"""

import os
import sys
import uuid

from pubsub import push_manager_pb2 as pb
from push_managers import Answer, PushManagers, PushStream, Refused, Unreachable

# How long the push manager waits for the sessions before it reports, in milliseconds.
DEADLINE_MS = 2_000

OUTCOMES = ["written", "queued", "dropped_slow", "dropped_closed", "dropped_shed", "offline", "unknown"]


def content(text, kind=pb.TEXT, **metadata):
    """What to push; clients get the metadata as it is."""
    return pb.MessageContent(type=kind, data=text.encode(), metadata=metadata)


def common():
    """An id of our own names the message in every log, also where no answer comes back."""
    return {"message_id": str(uuid.uuid4()), "deadline_ms": DEADLINE_MS}


def line(what, request, result):
    """One line for people."""
    if isinstance(result, Answer):
        word = "delivered" if result.success else f"not delivered ({result.message})"
        total = result.report.total
        counts = [f"members {total.members}"]
        counts += [f"{name} {getattr(total, name)}" for name in OUTCOMES if getattr(total, name)]
        if result.report.routes_stale_ms:
            # Sessions that joined since then may have been missed.
            counts.append(f"routes {result.report.routes_stale_ms} ms old")
        return f"{what}: {word}; {', '.join(counts)}"
    if isinstance(result, Refused):
        words = " ".join(filter(None, ["refused", result.code, result.reason]))
        return f"{what}: {words}; {result.message}"
    if isinstance(result, Unreachable):
        return f"{what}: unreachable; nothing was pushed"
    return f"{what}: unknown; message {request.message_id} may have arrived: {result.why}"


def exit_code(result):
    """As the business client's."""
    if isinstance(result, Answer):
        return 0 if result.success else 1
    return 3 if isinstance(result, Refused) else 4


def push_all(addresses, room, user, count):
    """All pushes; the highest exit code."""
    managers = PushManagers(addresses)
    stream = PushStream(managers)
    codes = [0]

    def tell(what, request, result):
        print(line(what, request, result), flush=True)
        codes.append(exit_code(result))

    hello = pb.PushToRoomRequest(room_id=room, content=content("Hello everyone!"), **common())
    tell(f"room {room}", hello, managers.push(hello))
    translation = content("你好！", pb.TRANSLATION, source_language="en", target_language="zh")
    translation = pb.PushToUserRequest(user_id=user, content=translation, **common())
    tell(f"user {user}", translation, managers.push(translation))
    announcement = content("System announcement", pb.SYSTEM)
    announcement = pb.BroadcastMessageRequest(content=announcement, **common())
    tell("everyone", announcement, managers.push(announcement))

    # Without a wait between them: the stream bounds what is in flight, and keeps the order.
    outcomes = []
    for number in range(1, count + 1):
        tick = pb.PushToRoomRequest(room_id=room, content=content(f"tick {number}"), **common())
        outcomes.append((number, tick, stream.push(tick)))
    for number, tick, outcome in outcomes:
        tell(f"stream {number}", tick, outcome.result())
    stream.close()
    managers.close()
    return max(codes)


def main():
    words = sys.argv[1:]
    addresses = os.environ.get("PUSH_MANAGER_ADDRESS") or "localhost:50053"
    addresses = [address.strip() for address in addresses.split(",") if address.strip()]
    room, user, count = words + ["room-001", "user-001", "100"][len(words) :] if len(words) <= 3 else ("", "", "")
    if not addresses or not count.isascii() or not count.isdigit():
        print("usage: push.py [ROOM] [USER] [STREAMED]; PUSH_MANAGER_ADDRESS=host:port,...", file=sys.stderr)
        return 2
    return push_all(addresses, room, user, int(count))


if __name__ == "__main__":
    sys.exit(main())
