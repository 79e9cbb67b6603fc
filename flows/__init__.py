"""The procedures, as a physicist would write them on a whiteboard."""
