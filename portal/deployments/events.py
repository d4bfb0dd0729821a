"""Tell the browser, after commit, that a deployment or a seat of it changed."""

from portal.deployments.models import Deployment
from portal.lib import live


def deployment_changed(deployment: Deployment) -> None:
    """Everyone in the project, and the operators, look at it again."""
    live.publish_on_commit(
        [live.project_group(deployment.project_id), live.OPERATORS], [f"deployment:{deployment.pk}", "deployments"]
    )
