def variants() -> list[tuple[str, str, str]]: ...
def activations() -> list[tuple[str, str]]: ...
def build_info() -> dict[str, str]: ...
def launch_plan(
    dtype: str,
    rows: int,
    cols: int,
    *,
    layout: str = "separate",
    row_stride: int | None = None,
    offset: int = 0,
    backward: bool = False,
    widest_access: int = 16,
) -> dict[str, int]: ...
