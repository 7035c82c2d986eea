"""The outbox: an order and the message about it in one SQL transaction; a relay sends what was committed."""

import os
import tempfile
from pathlib import Path

import anyio
from sqlalchemy import String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sluicemq.client import Outbox, connect

URL = os.environ.get("SLUICEMQ_URL", "sluicemq://127.0.0.1:7650")


class Base(DeclarativeBase):
    """Of the tables below."""


class Order(Base):
    """An order of the shop."""

    __tablename__ = "orders"
    number: Mapped[str] = mapped_column(String, primary_key=True)


async def main() -> None:
    """Place three orders, of which one is rolled back; nobody hears of that one."""
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{Path(folder) / 'shop.db'}")
        Base.metadata.create_all(engine)
        outbox = Outbox(engine)
        await outbox.create_tables()

        for number in ("o-1", "o-2", "o-3"):
            with Session(engine) as session:
                session.add(Order(number=number))
                outbox.add(session, "placed", number.encode(), key=number)  # works while the broker is down
                if number == "o-2":
                    session.rollback()
                session.commit()

        async with connect(URL) as client:
            await client.declare_queue("placed", dedup_window=86_400.0)
            async with outbox.relay(client), client.consumer("placed") as consumer:
                for _ in range(2):
                    async with await anext(consumer) as message:
                        print("placed:", message.body.decode())
        engine.dispose()


if __name__ == "__main__":
    anyio.run(main, backend="trio")
