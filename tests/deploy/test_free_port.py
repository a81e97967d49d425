"""A port that was found free stays so until its server takes it, and one that is taken is seen."""

import socket

from deploy.stack.processes import free_port, is_free


def test_the_system_gives_it_to_nobody_else_and_its_server_may_take_it() -> None:
    ports = {free_port() for _ in range(200)}
    assert len(ports) == 200
    for _ in range(2_000):
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", 0))
            assert stranger.getsockname()[1] not in ports
    for port in ports:
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_a_port_is_taken_also_by_who_only_bound_it() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)
