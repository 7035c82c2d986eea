"""`App`: consumers as decorated functions, with everything around them that a service needs.

The way in for a reader: `app` (what users write), `handlers` (what a function wants, and how it is called), `working`
(a consumer with its workers), `publishing`, `running` (start, signals, end).
"""

from sluicemq.client.app.app import App as App
from sluicemq.client.app.handlers import Depends as Depends
from sluicemq.client.app.publishing import Publisher as Publisher
