"""Receipts are made when they are asked for."""

from sluicemq.client.receipts import Confirmation, Receipt, Receipts

GIVEN = Confirmation(0, (1 << 32) | 7, False, 5, 9, 3, ["o-1", None, "o-3"], id_base=5 << 22)


def test_a_receipt_names_position_and_id():
    receipt = Receipt(GIVEN, 0)
    assert (receipt.position, receipt.message_id, receipt.duplicate) == ("0-100000007-0", "o-1", False)
    assert Receipt(GIVEN, 1).message_id == f"{5 << 22 | 1:016x}"
    assert Receipt(GIVEN._replace(message_ids=None), 2).message_id == f"{5 << 22 | 2:016x}"
    assert "o-1" in repr(receipt)


def test_receipts_are_equal_by_position():
    assert Receipt(GIVEN, 0) == Receipt(GIVEN._replace(duplicate=True), 0)
    assert Receipt(GIVEN, 0) != Receipt(GIVEN, 1)
    assert len({Receipt(GIVEN, 0), Receipt(GIVEN, 0), Receipt(GIVEN, 1)}) == 2
    assert Receipt(GIVEN, 0) != "0-100000007-0"


def test_receipts_of_many_are_a_sequence():
    receipts = Receipts(GIVEN)
    assert len(receipts) == 3
    assert [receipt.message_id for receipt in receipts] == ["o-1", f"{5 << 22 | 1:016x}", "o-3"]
    assert receipts[-1] == Receipt(GIVEN, 2)
    assert list(receipts[1:]) == [Receipt(GIVEN, 1), Receipt(GIVEN, 2)]
    assert not receipts.duplicate
    assert "3 messages" in repr(receipts)


def test_what_was_known_by_its_id_is_told_message_by_message():
    said = GIVEN._replace(messages=6, message_ids=None, known=[1, 2, (1 << 32) | 3, 8, 4, 1, (1 << 32) | 7, 0])
    receipts = list(Receipts(said))
    assert [receipt.duplicate for receipt in receipts] == [False, True, True, False, True, False]
    assert [receipt.position for receipt in receipts] == [
        *("0-100000007-0", "0-100000003-8", "0-100000003-9", "0-100000007-3", "0-100000007-0", "0-100000007-5")
    ]


def test_where_only_bits_had_room_no_position_is_made_up():
    receipts = list(Receipts(GIVEN._replace(messages=3, known_bits=b"\x05")))
    assert [(receipt.duplicate, receipt.position) for receipt in receipts] == [
        *((True, ""), (False, "0-100000007-1"), (True, ""))
    ]
