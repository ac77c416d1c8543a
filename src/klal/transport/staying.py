"""Staying connected to a hub: dialing again and again, ever less often, until told to stop.

Source:
    Protocol spec section 12, rules LIN-1 to LIN-5 and WEB-5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from klal.desk import Port
from klal.errors import KlalError, RefusedError, UsageError
from klal.reports import Standing
from klal.transport.link import DONE, ClosedError, Link, Space, error_of
from klal.transport.websocket import Caller, address_of, dial

BACK_OFF_S = 0.5
BACK_OFF_MAX_S = 30.0
_PACE_EVERY_S = 5.0


async def keep(
    space: Space, url: str, caller: Caller, told: Callable[[Standing], None], dice: Callable[[], float]
) -> None:
    """Stay connected to a hub: return only when it makes no sense to dial it any more.

    Args:
        told: Called whenever it stands otherwise with this hub.
        dice: Numbers from 0 to 1, so that many who lost one hub do not all come back at once.

    Raises:
        RefusedError: It serves another space. UsageError: No URL of a hub.
    """
    address_of(url, caller.space_id)
    wait_s = BACK_OFF_S
    while True:
        told(Standing(url, "connecting"))
        try:
            socket = await dial(url, caller)
            link = Link(socket, space, url, dials=True)
            seen: list[Standing] = []

            def look(port: Port, seen: list[Standing] = seen) -> None:
                now = _standing(url, port)
                if not seen or seen[-1] != now:
                    seen[:] = [now]
                    told(now)

            link.on_delivery = look
            closed = await _paced(link)
            if link.port is not None and link.port.line.session_count:
                wait_s = BACK_OFF_S
            error = error_of(closed, url)
        except UsageError:
            raise
        except KlalError as found:
            error = found
        if isinstance(error, RefusedError):
            told(Standing(url, "ended", str(error)))
            raise error
        # Half of it is certain and half is thrown for.
        pause_s = wait_s * (0.5 + 0.5 * dice())
        told(Standing(url, "waiting", str(error), again_in_s=round(pause_s, 1)))
        await asyncio.sleep(pause_s)
        wait_s = min(2 * wait_s, BACK_OFF_MAX_S)


def _standing(url: str, port: Port) -> Standing:
    line = port.line
    is_in_step = line.session_count > 0 and not line.is_in_session
    return Standing(url, "in step" if is_in_step else "catching up", received_count=line.change_count)


async def _paced(link: Link) -> ClosedError:
    """Carry a link to its end, and end it if its other side keeps silent when it is to speak."""
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(link.run())
    try:
        while not running.done():
            await asyncio.wait([running], timeout=_PACE_EVERY_S)
            link.check_pace(loop.time())
        return running.result()
    except asyncio.CancelledError:
        link.end(DONE, "")
        # What is being sent is cut; the other side keeps what it has whole.
        await asyncio.wait([running], timeout=1)
        running.cancel()
        raise
