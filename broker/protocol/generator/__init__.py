"""Generator of `broker/protocol/_generated` from Kafka's message definitions. Run as `python -m broker.protocol.generator [--check]`.

`served.py` says what is generated; `kafka_json.py` and `kio_source.py` read definitions into the classes of `schema.py`; `decoder.py`, `encoder.py`
and `module.py` write Python; `catalogue.py` brings the two together.
Needs the development dependencies kafka-python and kio; what it writes needs neither.
"""
