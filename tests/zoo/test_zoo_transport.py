"""Servers that lose, cut or spoil answers on their way, and sound ones that send them in unusual ways."""

import gzip
import itertools
import json
import os
import socket
import struct
import time
from pathlib import Path

import misbehaving
from misbehaving import completion
from zoo import broken, sound, visits
from zoo_servers import as_json, ask, counts, counts_come_soon, one_in, raw


def reset(handler, body, number):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())
    raise ConnectionError


def sent(handler, payload, *headers, close=True):
    """The payload behind these lines, whatever they say of it."""
    lines = ["HTTP/1.1 200 OK", "Content-Type: application/json", *headers, "", ""]
    handler.wfile.write("\r\n".join(lines).encode() + payload)
    handler.wfile.flush()
    handler.close_connection = close


@broken("inconclusive", 3, "ReadError")
def connections_are_reset(zoo):
    """A server drops some connections instead of answering."""
    return ask(zoo, one_in(5, reset))


@broken("inconclusive", 3, "1 of 100 samples are missing")
def one_connection_in_a_hundred_is_reset(zoo):
    """A server drops one connection in a hundred instead of answering."""
    few = ("-n", 100, "--max-tokens", 5, "--conditions", "alone,wave-16", "--prompt", "ask me")
    return ask(zoo, one_in(100, reset), few=few, takes_s=0.001)


@broken("inconclusive", 3, "not JSON")
def nothing_with_status_200(zoo):
    """A server answers some requests with status 200 and nothing."""
    return ask(zoo, one_in(5, raw(b"")))


@broken("inconclusive", 3, "no answer within 0.5 s")
def hangs(zoo):
    """A server never answers some requests."""
    return ask(zoo, one_in(9, lambda h, b, n: time.sleep(0.8)), "--timeout", 0.5)


@broken("inconclusive", 3, "not JSON")
def content_length_is_short(zoo):
    """A gateway announces fewer bytes than an answer has, and cuts it there."""

    def short(handler, body, number):
        whole = as_json(handler, body, number)
        sent(handler, whole[: len(whole) // 2], f"Content-Length: {len(whole) // 2}")

    return ask(zoo, one_in(5, short))


@broken("inconclusive", 3, "RemoteProtocolError")
def connection_ends_before_the_answer_does(zoo):
    """A connection is closed before all the bytes came that were announced."""

    def long(handler, body, number):
        whole = as_json(handler, body, number)
        sent(handler, whole[:-9], f"Content-Length: {len(whole)}")

    return ask(zoo, one_in(5, long))


@broken("inconclusive", 3, "RemoteProtocolError")
def chunks_without_an_end(zoo):
    """An answer in chunks has no last chunk, although its JSON is whole."""

    def chunked(handler, body, number):
        whole = as_json(handler, body, number)
        sent(handler, b"%x\r\n%s\r\n" % (len(whole), whole), "Transfer-Encoding: chunked")

    return ask(zoo, one_in(5, chunked))


@broken("failed", 4, "it points to 'http://127.0.0.2")
def redirects(zoo):
    """A server sends every request on to another host."""
    answer = lambda h, b, n, t: h.send(b"", 307, Location="http://127.0.0.2:1/v1/completions")  # noqa: E731
    return ask(zoo, answer, opens_well=False)


@broken("inconclusive", 3, "DecodingError")
def broken_gzip(zoo):
    """Some answers are compressed, and broken in the middle."""

    def fault(handler, body, number):
        packed = bytearray(gzip.compress(as_json(handler, body, number)))
        packed[len(packed) // 2] ^= 0xFF
        handler.send(bytes(packed), Content_Encoding="gzip")

    return ask(zoo, one_in(5, fault))


@broken("inconclusive", 3, "not JSON")
def invalid_utf_8(zoo):
    """Some answers hold bytes that are no UTF-8."""
    return ask(zoo, one_in(5, lambda h, b, n: h.send(as_json(h, b, n).replace(b'"text": "', b'"text": "\xff\xfe'))))


@broken("inconclusive", 3, "status 429: 'slow down'")
def busy_without_saying_how_long(zoo):
    """A server is busy now and then, and does not say for how long."""
    return ask(zoo, one_in(5, lambda h, b, n: h.send({"error": "slow down"}, 429)))


@broken("inconclusive", 3, "longer than --timeout leaves")
def busy_for_an_hour(zoo):
    """A server wants some requests again in an hour."""
    return ask(zoo, one_in(5, lambda h, b, n: h.send({"error": "later"}, 503, Retry_After="3600")))


@broken("divergent")
def an_answer_left_in_the_connection(zoo):
    """A server sends a second answer behind some, over a connection that it keeps: the next request there is given that one."""

    def two(handler, body, number):
        handler.wbufsize, whole = -1, as_json(handler, body, number)
        more = json.dumps(completion(handler.server, body, f"{number}-2", flip=True)).encode()
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
        handler.wfile.write(b"".join(head.format(len(part)).encode() + part for part in (whole, more)))
        handler.wfile.flush()

    few = ("-n", 8, "--max-tokens", 8, "--conditions", "wave-2", "--prompt", "ask me")
    return ask(zoo, one_in(2, two), few=few)


@broken("inconclusive", 3, "no answer within 0.5 s")
def trickles(zoo):
    """A server sends a byte of some answers now and then, and never all of them."""

    def slowly(handler, body, number):
        for _ in range(4):
            sent(handler, b" ", "Content-Length: 100") if _ == 0 else handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.2)

    return ask(zoo, one_in(9, slowly), "--timeout", 0.5)


@broken("inconclusive", 3, "not JSON (text/html)")
def a_page_to_log_in(zoo):
    """A gateway whose session ended answers with a page to log in, and status 200."""
    return ask(zoo, one_in(5, raw(b"<html>please log in</html>", content_type="text/html")))


@broken("failed", 4, "not JSON (text/event-stream)")
def a_stream_that_nobody_asked_for(zoo):
    """A server streams its answers although nobody asked for a stream."""

    def answer(handler, body, number, together):
        handler.send(b"data: " + as_json(handler, body, number) + b"\n\n", content_type="text/event-stream")

    return ask(zoo, answer, opens_well=False)


@broken("inconclusive", 3, "not JSON")
def two_answers_in_one_body(zoo):
    """A server writes two answers, one behind the other, into some bodies."""
    return ask(zoo, one_in(5, lambda h, b, n: h.send(as_json(h, b, n) * 2)))


@broken("inconclusive", 3, "status 202")
def accepted_and_not_done(zoo):
    """A queue in front of the server accepts some requests with status 202, and a body that looks like an answer."""
    return ask(zoo, one_in(5, lambda h, b, n: h.send(as_json(h, b, n), 202)))


@broken("inconclusive", 3, "ConnectError")
def dies_half_way(zoo):
    """A server dies in the middle of the run."""
    asked = itertools.count()

    def answer(handler, body, number, together):
        if counts(body) and next(asked) > 4:
            handler.server.socket.close()
            return reset(handler, body, number)
        return completion(handler.server, body, number)

    counts_come_soon(zoo)
    return ask(zoo, answer)


@sound
def connections_are_closed(zoo):
    """A server closes the connection after each answer."""

    def answer(handler, body, number, together):
        handler.close_connection = True
        handler.send(as_json(handler, body, number), Connection="close")

    return ask(zoo, answer)


@sound
def http_1_0(zoo):
    """A server of HTTP/1.0, whose answers end where the connection does."""

    def answer(handler, body, number, together):
        handler.wfile.write(
            b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + as_json(handler, body, number)
        )
        handler.close_connection = True

    return ask(zoo, answer)


@sound
def chunks(zoo):
    """A server sends its answers in chunks of a few bytes."""

    def answer(handler, body, number, together):
        whole = as_json(handler, body, number)
        parts = [whole[n : n + 50] for n in range(0, len(whole), 50)]
        chunked = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"
        sent(handler, chunked, "Transfer-Encoding: chunked", close=False)

    return ask(zoo, answer)


@sound
def gzip_done_well(zoo):
    """A server compresses its answers."""
    answer = lambda h, b, n, t: h.send(gzip.compress(as_json(h, b, n)), Content_Encoding="gzip")  # noqa: E731
    return ask(zoo, answer, opens_well=False)


@sound
def busy_and_says_how_long(zoo):
    """A server is busy now and then, says how long to wait, and answers then."""
    turned_away = set()

    def answer(handler, body, number, together):
        if counts(body) and number % 5 == 0 and len(turned_away) < 2:
            turned_away.add(number)
            return handler.send({"error": "busy"}, 429, Retry_After="0.1")
        return completion(handler.server, body, number)

    return ask(zoo, answer)


@sound
def https(zoo):
    """A server of https, whose certificate is signed by an authority that was given."""
    authority = Path(misbehaving.__file__).with_name("loopback-ca.pem")
    (zoo.folder / "ca.pem").write_bytes(authority.read_bytes())
    return ask(zoo, None, "--ca-bundle", zoo.folder / "ca.pem", tls=True)


@sound
def a_byte_at_a_time(zoo):
    """A server sends its answers slowly, in small pieces, and whole."""

    def answer(handler, body, number, together):
        whole = as_json(handler, body, number)
        sent(handler, b"", f"Content-Length: {len(whole)}", close=False)
        for n in range(0, len(whole), 100):
            handler.wfile.write(whole[n : n + 100])
            handler.wfile.flush()
            time.sleep(0.005)

    return ask(zoo, answer)


test_subject = visits(globals())
