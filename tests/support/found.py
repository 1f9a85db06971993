"""All that the index of messages finds in a store, at once."""

from collections.abc import Callable

from cbfs.messages import search_index
from cbfs.messages.search_index import SEGMENT, SearchHit
from cbfs.storage.store import Reader


def find(reader: Reader, query: str, folder: Callable[[bytes], str]) -> list[SearchHit]:
    """What a search means, in order of arrival."""
    parsed = search_index.parse_query(query)
    return [
        hit
        for segment in range(search_index.segments(reader))
        for hit in search_index.find(reader, parsed, folder, segment)
    ]


def indexed(reader: Reader) -> list[tuple[int, int, bool]]:
    """(serial, day, unread) of all messages, in order of arrival."""
    return [
        (segment * SEGMENT + number, day, unread)
        for segment in range(search_index.segments(reader))
        for number, _conversation, day, unread in search_index.entries(reader, segment)
    ]
