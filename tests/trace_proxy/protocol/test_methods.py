"""What is asked about a method is answered once, and no client can fill our memory with it."""

from trace_proxy.protocol import methods


def test_what_is_asked_often_is_the_same_object() -> None:
    assert methods.traits("thread/read") is methods.traits("thread/read")


def test_traits_say_what_the_tables_say() -> None:
    for method in (*methods.KNOWN, "echo"):
        traits = methods.traits(method)
        assert traits.name == method
        assert traits.json.decode() == f'"{method}"'
        assert traits.label == methods.label(method)
        assert traits.new_work == (method in methods.NEW_WORK)
        assert traits.about_threads == (method in methods.ABOUT_THREADS)
        assert traits.merged == (method in methods.MERGED)
        assert traits.handles == methods.HANDLES.get(method)


def test_inventions_of_clients_do_not_fill_the_memory() -> None:
    for number in range(2 * methods.TRAITS_KEPT):
        methods.traits(f"invented/{number}")
    methods.traits("m" * 10_000)
    kept = methods._TRAITS  # noqa: SLF001 - its bound is the point
    assert len(kept) <= methods.TRAITS_KEPT
    assert max(map(len, kept)) < methods.MAX_KEPT_CHARS
    assert "thread/read" in kept, "what is real was there first"
