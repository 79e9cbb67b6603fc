from prefect import flow


@flow(name="trf-index")
def trf_index(serial: str = "x"): ...
