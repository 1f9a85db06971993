"""What the server does for each request. No sockets here, and nothing of how a store keeps what
it keeps.

A request becomes one question or one change of the store, and is answered when the store has
answered: a change is durable then.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from cbfs_common.errors import DecodeError
from cbfs_common.limits import SPOKEN_VERSION
from cbfs_common.messages.blobs import blob_id
from cbfs_common.wire.blobs import GetChunk, MakeBlob, PutChunk, RemoveBlob, StatBlob
from cbfs_common.wire.fields import UnknownRequest
from cbfs_common.wire.requests import (
    AnyReply,
    AnyRequest,
    AskInvite,
    Code,
    CountPrekeys,
    CreateAccount,
    Delete,
    DeleteAccount,
    Deliver,
    ErrorReply,
    Fetch,
    GetLimits,
    GetTerms,
    List,
    ServerLimits,
    ServerVersion,
    Subscribe,
    SwapMark,
    TakePrekey,
    TellVersion,
    UploadPrekeys,
    decode_request,
    encode,
    envelope_id,
)
from cbfs_common.wire.transport import SERVER_SECRET_SIZE
from cbfs_host.complaints import StoreError
from cbfs_host.meter import Meters
from cbfs_server.limits import PREKEYS_MAX
from cbfs_server.newcomers import Newcomers
from cbfs_server.push import Client, Pusher
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AddBlob,
    AddChunk,
    AddEnvelope,
    AddPrekeys,
    AskAccount,
    AskBlob,
    AskPrice,
    Change,
    ChangeMark,
    CountPrekeysLeft,
    EndAccount,
    EndBlob,
    GivePrekey,
    ListIds,
    MakeAccount,
    Question,
    ReadChunk,
    ReadEnvelope,
    RemoveEnvelopes,
)
from cbfs_server.visits import Visits

DAY = 86_400

_RANKS: dict[type[AnyRequest], int] = {Deliver: 1, TakePrekey: 1, PutChunk: 1, CreateAccount: 2}
"""Under load owners are first, strangers come after them and so do large files, and newcomers are
last."""

Told = Callable[[AnyReply | StoreError], object]


class Service:
    """Answers requests of clients whose keys are proved. ``clock`` gives seconds since 1970, and
    ``lived`` those by which mail grows old, when that is another. ``newcomers``: accounts may be
    made, when ``admission`` lets them in. What is asked and refused is counted in ``meters``."""

    def __init__(
        self,
        store: MailboxStore,
        pusher: Pusher,
        clock: Callable[[], float],
        lived: Callable[[], float] | None = None,
        meters: Meters | None = None,
        *,
        newcomers: bool = True,
        admission: Newcomers | None = None,
    ) -> None:
        self.meters = meters or Meters()
        self.limits = store.limits
        self._store = store
        self._pusher = pusher
        self._clock = clock
        self._lived = lived or clock
        self._newcomers = newcomers
        self._admission = admission or Newcomers(bytes(SERVER_SECRET_SIZE))
        self._visits = Visits(store, self._lived)
        self._changes: dict[type[AnyRequest], Callable[[bytes, Any], Change[AnyReply]]] = {
            Deliver: self._deliver,
            Delete: lambda user, request: RemoveEnvelopes(user, request.ids),
            TakePrekey: lambda _user, request: GivePrekey(request.user_id, self._clock()),
            UploadPrekeys: self._upload,
            CreateAccount: self._create,
            SwapMark: lambda user, request: ChangeMark(user, request.seen, request.new),
            MakeBlob: self._make_blob,
            PutChunk: lambda user, request: AddChunk(
                user, request.id, request.index, request.chunk
            ),
            RemoveBlob: lambda user, request: EndBlob(user, request.id),
        }
        self._questions: dict[type[AnyRequest], Callable[[bytes, Any], Question[AnyReply]]] = {
            Fetch: lambda user, request: ReadEnvelope(user, request.id),
            List: lambda user, request: ListIds(user, request.after),
            CountPrekeys: lambda user, _request: CountPrekeysLeft(user, self._clock()),
            StatBlob: lambda user, request: AskBlob(user, request.id),
            GetChunk: lambda _user, request: ReadChunk(
                blob_id(request.capability), request.index, self._store.suspended
            ),
        }

    def handle(self, client: Client, id: int, payload: bytes) -> None:
        """Answer with ``client.send(id, reply)``, now or when the store has answered."""
        try:
            request = decode_request(payload)
        except UnknownRequest:
            self._send(client, id, REFUSED[Code.LATER_VERSION])
            return
        except DecodeError:
            self._send(client, id, REFUSED[Code.BAD_REQUEST])
            return
        kind, user = type(request), client.key
        self.meters.requests.count(kind.__name__)
        if self._store.suspended and self._is_suspended(user, request):
            self._send(client, id, REFUSED[Code.SUSPENDED])
            return
        if (change := self._changes.get(kind)) is not None:
            done = partial(self._changed, client, id, request)
            self._store.submit(change(user, request), done, client, _RANKS.get(kind, 0))
        elif (question := self._questions.get(kind)) is not None:
            told = partial(self._answered, client, id, request)
            self._store.ask(question(user, request), told, client)
        else:
            self._look_up(client, id, request)

    def _look_up(self, client: Client, id: int, request: AnyRequest) -> None:
        """What is answered by more than what the store says."""
        told: Told = partial(self._answered, client, id, request)
        match request:
            case DeleteAccount():
                told = partial(self._changed, client, id, request)
                self._store.submit(EndAccount(client.key), partial(_ended, told), client)
            case GetLimits():
                limits = self.limits.now
                told(ServerLimits(limits.mailbox, limits.retention_days * DAY, PREKEYS_MAX))
            case AskInvite():
                asked_account = AskAccount(client.key)
                self._store.ask(asked_account, partial(self._grant, told, request), client)
            case TellVersion():
                told(ServerVersion(SPOKEN_VERSION))
            case GetTerms():
                asked = AskPrice(self._admission.rule)
                self._store.ask(asked, partial(self._priced, told), client)
            case Subscribe():
                told = partial(self._subscribed, client, id, request)
                self._store.ask(AskAccount(client.key), told, client)
            case _:
                self._store.ask(AskAccount(client.key), told, client)

    def _answered(
        self, client: Client, id: int, request: AnyRequest, result: AnyReply | StoreError
    ) -> bool:
        """The store has answered. Whether it was done."""
        reply = REFUSED[Code.TROUBLE] if isinstance(result, StoreError) else result
        self._send(client, id, reply)
        if isinstance(reply, ErrorReply):
            return False
        self._visits.came(client, request)
        return True

    def _changed(
        self, client: Client, id: int, request: AnyRequest, result: AnyReply | StoreError
    ) -> None:
        if self._answered(client, id, request, result):
            self._tell(client.key, request)

    def _subscribed(
        self, client: Client, id: int, request: AnyRequest, result: AnyReply | StoreError
    ) -> None:
        if self._answered(client, id, request, result):
            self._pusher.subscribe(client)

    def _is_suspended(self, user: bytes, request: AnyRequest) -> bool:
        """Whether the operator has suspended the client, or the account that it writes to."""
        of = request.user_id if isinstance(request, Deliver | TakePrekey) else user
        return not self._store.suspended.isdisjoint((user, of))

    def _send(self, client: Client, id: int, reply: AnyReply) -> None:
        if isinstance(reply, ErrorReply):
            self.meters.refusals.count(reply.code.name)
        client.send(id, encode(reply))

    def _tell(self, user: bytes, request: AnyRequest) -> None:
        """Tell subscribers, after the change is durable."""
        match request:
            case Deliver():
                self._pusher.arrived(request.user_id)
            case Delete():
                self._pusher.deleted(user, request.ids)
            case DeleteAccount():
                self._pusher.forget(user)

    def _deliver(self, _user: bytes, request: Deliver) -> AddEnvelope:
        envelope, day = request.envelope, int(self._lived()) // DAY
        return AddEnvelope(request.user_id, envelope_id(envelope), envelope, day)

    def _upload(self, user: bytes, request: UploadPrekeys) -> AddPrekeys:
        return AddPrekeys(user, request.records, request.kem, request.replace, self._clock())

    def _create(self, user: bytes, request: CreateAccount) -> MakeAccount:
        ticket = self._admission.ticket(user, request, self._clock())
        day = int(self._lived()) // DAY
        return MakeAccount(user, day, ticket, self._admission.rule, not self._newcomers)

    def _make_blob(self, user: bytes, request: MakeBlob) -> AddBlob:
        day = int(self._lived()) // DAY
        return AddBlob(user, request.id, request.chunks, request.days, day)

    def _grant(self, done: Told, asked: AskInvite, account: AnyReply | StoreError) -> None:
        if isinstance(account, StoreError | ErrorReply):
            done(account)
        else:
            done(self._admission.granted(asked, self.limits.now.user_invites, self._clock()))

    def _priced(self, done: Told, bits: int | StoreError) -> None:
        if isinstance(bits, StoreError):
            done(bits)
        else:
            done(self._admission.terms(bits, self._clock()))


def _ended(done: Told, envelopes: int | StoreError | None) -> None:
    if isinstance(envelopes, StoreError):
        done(envelopes)
    else:
        done(REFUSED[Code.NO_ACCOUNT] if envelopes is None else DONE)
