"""Tell the browser, after commit, that somebody's files have moved."""

from portal.lib import live
from portal.profiles.models import Profile


def profile_changed(profile: Profile) -> None:
    """The person, and the operators, look at them again. Nobody else in the project is told whose files are where."""
    topics = [f"profile:{profile.pk}", "profiles"]
    if profile.machine_id is not None:
        topics.append(f"machine:{profile.machine_id}")
    live.publish_on_commit([live.user_group(profile.person_id), live.OPERATORS], topics)
