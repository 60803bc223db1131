"""Two pymediasoup peers in one room, over protoo: data on ordered and unordered channels both ways, a tone and a colour.

Prints one JSON line of what came. Ends with status 1 and the reason where something did not.
"""

import asyncio
import fractions
import json
import os
import random
import sys
import time

import av
import numpy
from aiortc import AudioStreamTrack, VideoStreamTrack
from pymediasoup import AiortcHandler, Device
from pymediasoup.models.transport import DtlsParameters, IceCandidate, IceParameters
from pymediasoup.rtp_parameters import RtpCapabilities, RtpParameters
from pymediasoup.sctp_parameters import SctpParameters, SctpStreamParameters
import websockets

# How long anything may take.
PATIENCE = 30
# The longest message that the server's transports take.
LONGEST = 262_144
SMALL_MESSAGES = 300
COLOUR = {"ann": (200, 40, 40), "bob": (40, 40, 200)}
RATE = 48_000


class Colour(VideoStreamTrack):
    """A picture of one colour."""

    def __init__(self, rgb):
        super().__init__()
        self.pixels = numpy.full((240, 320, 3), rgb, dtype=numpy.uint8)

    async def recv(self):
        frame = av.VideoFrame.from_ndarray(self.pixels, format="rgb24")
        frame.pts, frame.time_base = await self.next_timestamp()
        return frame


class Tone(AudioStreamTrack):
    """A sine of 440 Hz."""

    def __init__(self):
        super().__init__()
        self.position = 0
        self.start = None

    async def recv(self):
        samples = RATE // 50
        self.start = self.start or time.monotonic()
        await asyncio.sleep(max(0, self.start + self.position / RATE - time.monotonic()))
        phase = 2 * numpy.pi * 440 * (self.position + numpy.arange(samples)) / RATE
        wave = (numpy.sin(phase) * 12_000).astype(numpy.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self.position, fractions.Fraction(1, RATE)
        self.position += samples
        return frame


class Protoo:
    """The client's side of protoo: requests both ways, notifications ignored but for what the peer wants."""

    def __init__(self, socket, on_request):
        self.socket = socket
        self.on_request = on_request
        self.waiting = {}
        self.tasks = set()
        self.reader = asyncio.create_task(self.read())

    async def read(self):
        async for text in self.socket:
            message = json.loads(text)
            if message.get("response"):
                future = self.waiting.pop(message["id"])
                if message.get("ok"):
                    future.set_result(message.get("data", {}))
                else:
                    future.set_exception(RuntimeError(f"{message['errorCode']}: {message['errorReason']}"))
            elif message.get("request"):
                task = asyncio.create_task(self.answer(message))
                self.tasks.add(task)

    async def answer(self, message):
        await self.on_request(message["method"], message["data"])
        await self.socket.send(json.dumps({"response": True, "id": message["id"], "ok": True, "data": {}}))

    async def request(self, method, data=None):
        number = random.randrange(10_000_000)
        self.waiting[number] = asyncio.get_running_loop().create_future()
        frame = {"request": True, "id": number, "method": method, "data": data or {}}
        await self.socket.send(json.dumps(frame))
        return await asyncio.wait_for(self.waiting[number], PATIENCE)


def plain(model):
    return model.model_dump(exclude_none=True, mode="json") if hasattr(model, "model_dump") else model


class Peer:
    def __init__(self, name):
        self.name = name
        self.messages = {}
        self.arrived = asyncio.Condition()
        self.tracks = {}
        self.closers = []

    async def join(self, url, room):
        address = f"{url}/?roomId={room}&peerId={self.name}"
        socket = await websockets.connect(address, subprotocols=["protoo"], max_size=None)
        self.closers.append(socket.close)
        self.protoo = Protoo(socket, self.asked)
        self.device = Device(handlerFactory=AiortcHandler.createFactory(tracks=[]))
        await self.device.load(RtpCapabilities(**await self.protoo.request("getRouterRtpCapabilities")))
        self.send_transport = await self.transport(producing=True)
        self.receive_transport = await self.transport(producing=False)
        capabilities = plain(self.device.rtpCapabilities)
        sctp = plain(self.device.sctpCapabilities)
        await self.protoo.request(
            "join",
            {
                "displayName": self.name,
                "device": {"flag": "python", "name": "pymediasoup", "version": "1"},
                "rtpCapabilities": capabilities,
                "sctpCapabilities": sctp,
            },
        )

    async def transport(self, producing):
        told = await self.protoo.request(
            "createWebRtcTransport",
            {
                "forceTcp": False,
                "producing": producing,
                "consuming": not producing,
                "sctpCapabilities": plain(self.device.sctpCapabilities),
            },
        )
        create = self.device.createSendTransport if producing else self.device.createRecvTransport
        transport = create(
            id=told["id"],
            iceParameters=IceParameters(**told["iceParameters"]),
            iceCandidates=[IceCandidate(**candidate) for candidate in told["iceCandidates"]],
            dtlsParameters=DtlsParameters(**told["dtlsParameters"]),
            sctpParameters=SctpParameters(**told["sctpParameters"]),
            iceServers=[],
        )
        self.closers.append(transport.close)

        @transport.on("connect")
        async def on_connect(parameters: DtlsParameters):
            await self.protoo.request(
                "connectWebRtcTransport", {"transportId": told["id"], "dtlsParameters": plain(parameters)}
            )

        @transport.on("produce")
        async def on_produce(kind, parameters, app_data):
            data = {"transportId": told["id"], "kind": kind, "rtpParameters": plain(parameters)}
            return (await self.protoo.request("produce", {**data, "appData": app_data}))["id"]

        @transport.on("producedata")
        async def on_produce_data(sctpStreamParameters, label, protocol, appData):
            stream = plain(sctpStreamParameters)
            data = {"transportId": told["id"], "sctpStreamParameters": stream, "appData": appData}
            return (await self.protoo.request("produceData", {**data, "label": label, "protocol": protocol}))["id"]

        return transport

    async def asked(self, method, data):
        if method == "newConsumer":
            consumer = await self.receive_transport.consume(
                id=data["id"],
                producerId=data["producerId"],
                kind=data["kind"],
                rtpParameters=RtpParameters(**data["rtpParameters"]),
            )
            async with self.arrived:
                self.tracks[data["kind"]] = consumer.track
                self.arrived.notify_all()
        elif method == "newDataConsumer":
            label = data["label"]
            consumer = await self.receive_transport.consumeData(
                id=data["id"],
                dataProducerId=data["dataProducerId"],
                sctpStreamParameters=SctpStreamParameters(**data["sctpStreamParameters"]),
                label=label,
                protocol=data["protocol"],
            )
            self.messages[label] = []

            @consumer.on("message")
            async def on_message(message):
                async with self.arrived:
                    self.messages[label].append(message)
                    self.arrived.notify_all()

            if consumer.readyState != "open":
                opened = asyncio.get_running_loop().create_future()
                consumer.on("open", lambda: opened.done() or opened.set_result(None))
                await asyncio.wait_for(opened, PATIENCE)
            async with self.arrived:
                self.arrived.notify_all()

    async def until(self, what, condition):
        async with self.arrived:
            try:
                await asyncio.wait_for(self.arrived.wait_for(condition), PATIENCE)
            except asyncio.TimeoutError:
                got = {label: len(messages) for label, messages in self.messages.items()}
                raise RuntimeError(f"{self.name} waited for {what}; messages {got}, tracks {list(self.tracks)}")

    async def close(self):
        for closer in self.closers[::-1]:
            await closer()


def conversation(name):
    """What a peer says on its ordered channel: text and bytes, empty, one packet, many packets, the longest."""
    random.seed(name)
    said = [name, "", b"", "grüße, 世界", bytes(range(256)), random.randbytes(5_000)]
    said += [f"{name} {number}" for number in range(SMALL_MESSAGES)]
    return said + [random.randbytes(LONGEST), "x" * LONGEST, "end"]


async def talk(speaker, listener):
    """One direction: everything arrives, in order where that was asked for."""
    ordered = await speaker.send_transport.produceData(ordered=True, label=f"chat-{speaker.name}", protocol="p")
    loose = await speaker.send_transport.produceData(ordered=False, label=f"loose-{speaker.name}", protocol="")
    labels = [f"chat-{speaker.name}", f"loose-{speaker.name}"]
    await listener.until("data consumers", lambda: all(label in listener.messages for label in labels))
    await asyncio.wait_for(opened(ordered), PATIENCE)
    await asyncio.wait_for(opened(loose), PATIENCE)
    # The server resumes the data consumers once they are accepted; a word that is repeated until it comes says when.
    for producer, label in zip((ordered, loose), labels):
        for _ in range(200):
            producer.send("ping")
            try:
                await asyncio.wait_for(arrives(listener, label), 0.2)
                break
            except asyncio.TimeoutError:
                continue
    said = conversation(speaker.name)
    started = time.monotonic()
    for message in said:
        ordered.send(message)
    numbers = [f"{number} {'y' * (number * 13 % 3000)}" for number in range(SMALL_MESSAGES)]
    for message in numbers:
        loose.send(message)
    heard = lambda label: [message for message in listener.messages[label] if message != "ping"]
    await listener.until("all ordered messages", lambda: len(heard(labels[0])) == len(said))
    await listener.until("all unordered messages", lambda: len(heard(labels[1])) == len(numbers))
    took = time.monotonic() - started
    if heard(labels[0]) != said:
        raise RuntimeError("ordered messages differ from what was said")
    if sorted(heard(labels[1])) != sorted(numbers):
        raise RuntimeError("unordered messages differ from what was said")
    return {"messages": len(said) + len(numbers), "seconds": round(took, 3)}


async def arrives(listener, label):
    async with listener.arrived:
        await listener.arrived.wait_for(lambda: listener.messages[label])


async def opened(producer):
    if producer.readyState != "open":
        future = asyncio.get_running_loop().create_future()
        producer.on("open", lambda: future.done() or future.set_result(None))
        await future


async def see(listener, speaker):
    """The speaker's picture and tone arrive as what they are."""
    await listener.until("tracks", lambda: {"audio", "video"} <= set(listener.tracks))
    deadline = time.monotonic() + PATIENCE
    wanted = COLOUR[speaker.name]
    while True:
        frame = await asyncio.wait_for(listener.tracks["video"].recv(), PATIENCE)
        seen = frame.to_ndarray(format="rgb24")[120, 160]
        if all(abs(int(part) - want) < 40 for part, want in zip(seen, wanted)):
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"{listener.name} sees {seen}, not {wanted}")
    while True:
        frame = await asyncio.wait_for(listener.tracks["audio"].recv(), PATIENCE)
        channels = len(frame.layout.channels)
        wave = frame.to_ndarray().reshape(-1, channels)[:, 0].astype(float)
        crossings = numpy.count_nonzero(numpy.diff(numpy.signbit(wave)))
        hertz = crossings / 2 * frame.sample_rate / len(wave)
        if numpy.abs(wave).max() > 3_000 and abs(hertz - 440) < 60:
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"{listener.name} hears {hertz} Hz")


async def main(url, room):
    ann, bob = Peer("ann"), Peer("bob")
    try:
        await ann.join(url, room)
        await bob.join(url, room)
        for peer in (ann, bob):
            await peer.send_transport.produce(track=Colour(COLOUR[peer.name]), stopTracks=False, appData={})
            await peer.send_transport.produce(track=Tone(), stopTracks=False, appData={})
        directions = await asyncio.gather(talk(ann, bob), talk(bob, ann))
        await asyncio.gather(see(bob, ann), see(ann, bob))
        print(json.dumps({"ok": True, "directions": directions}), flush=True)
    finally:
        await bob.close()
        await ann.close()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2]))
    except Exception as error:  # the test wants the reason, whatever it is
        print(json.dumps({"ok": False, "error": f"{type(error).__name__}: {error}"}), flush=True)
        raise
    os._exit(0)
