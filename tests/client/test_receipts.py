"""Receipts are made when they are asked for."""

from sluicemq.client.receipts import Confirmation, Receipt, Receipts

GIVEN = Confirmation(0, (1 << 32) | 7, False, 5, 9, 3, ["o-1", None, "o-3"])


def test_a_receipt_names_position_and_id():
    receipt = Receipt(GIVEN, 0)
    assert (receipt.position, receipt.message_id, receipt.duplicate) == ("0-100000007-0", "o-1", False)
    assert Receipt(GIVEN, 1).message_id == "5.9.1"
    assert Receipt(GIVEN._replace(message_ids=None), 2).message_id == "5.9.2"
    assert "o-1" in repr(receipt)


def test_receipts_are_equal_by_position():
    assert Receipt(GIVEN, 0) == Receipt(GIVEN._replace(duplicate=True), 0)
    assert Receipt(GIVEN, 0) != Receipt(GIVEN, 1)
    assert len({Receipt(GIVEN, 0), Receipt(GIVEN, 0), Receipt(GIVEN, 1)}) == 2
    assert Receipt(GIVEN, 0) != "0-100000007-0"


def test_receipts_of_many_are_a_sequence():
    receipts = Receipts(GIVEN)
    assert len(receipts) == 3
    assert [receipt.message_id for receipt in receipts] == ["o-1", "5.9.1", "o-3"]
    assert receipts[-1] == Receipt(GIVEN, 2)
    assert list(receipts[1:]) == [Receipt(GIVEN, 1), Receipt(GIVEN, 2)]
    assert not receipts.duplicate
    assert "3 messages" in repr(receipts)
