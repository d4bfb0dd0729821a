"""The pages of images: who sees which, what they say, and what may be done from them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.images.models import Image, ImageVersion, Kind, Source, VersionStatus
from portal.jobs import services as jobs
from portal.jobs.models import Job, JobStep
from portal.jobs.names import JobName, JobStatus, StepStatus
from portal.machines.models import Machine
from portal.machines.states import Status

HTMX = {"HX-Request": "true"}
LIST = reverse("images:list")


@pytest.fixture
def own_image(project: Project, bob: User) -> Image:
    """An upload of Bob's for his project."""
    return Image.objects.create(
        slug="lab-exercise", title="Lab exercise", source=Source.UPLOAD, project=project, created_by=bob
    )


@pytest.fixture
def own_version(own_image: Image) -> ImageVersion:
    return ImageVersion.objects.create(
        image=own_image, number=1, status=VersionStatus.READY, size_bytes=5 * 1024**2, sha256="c" * 64
    )


def detail(image: Image) -> str:
    return reverse("images:detail", args=[image.pk])


def delete(version: ImageVersion) -> str:
    return reverse("images:delete-version", args=[version.pk])


def page(client: Client, path: str, **headers: str) -> str:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 200
    return answer.content.decode()


# --- the list -----------------------------------------------------------------------------------------------------


def test_everyone_sees_shared_images_and_their_own_projects_images_only(
    client: Client, image_version: ImageVersion, own_version: ImageVersion, vera: User, charlie: User
) -> None:
    client.force_login(vera)
    assert "Debian 12 server" in page(client, LIST)
    assert "Lab exercise" in page(client, LIST)
    client.force_login(charlie)
    assert "Debian 12 server" in page(client, LIST)
    assert "Lab exercise" not in page(client, LIST)
    assert client.get(detail(own_version.image)).status_code == 404


def test_the_list_says_what_an_image_is(client: Client, image_version: ImageVersion, alice: User) -> None:
    client.force_login(alice)
    text = page(client, LIST)
    assert "1 GiB" in text
    assert f'data-copy="{image_version.sha256}"' in text
    assert "everyone" in text


def test_the_list_shows_how_far_a_build_is(client: Client, image: Image, operator: User) -> None:
    version = ImageVersion.objects.create(image=image, number=1)
    job = jobs.enqueue(JobName.IMAGE_BUILD, version, queue="images", actor=operator, project=None)
    JobStep.objects.filter(job=job, position=0).update(
        status=StepStatus.RUNNING, progress=50, detail="Packages: 9 of 18"
    )
    client.force_login(operator)
    text = page(client, LIST, **HTMX)
    assert "<html" not in text  # The live update gets the list alone.
    assert "Packages: 9 of 18" in text
    assert 'value="25"' in text
    assert f"imageversion:{version.pk}" in text


def test_a_failed_version_shows_its_reason(client: Client, own_image: Image, bob: User) -> None:
    ImageVersion.objects.create(image=own_image, number=1, status=VersionStatus.FAILED, error="This is no disk.")
    client.force_login(bob)
    assert "This is no disk." in page(client, LIST)
    assert "This is no disk." in page(client, detail(own_image))


def test_an_upload_whose_last_version_is_gone_is_not_shown(
    client: Client, own_version: ImageVersion, bob: User
) -> None:
    ImageVersion.objects.update(status=VersionStatus.DELETING)
    client.force_login(bob)
    assert "Lab exercise" not in page(client, LIST)
    assert client.get(detail(own_version.image)).status_code == 404


def test_without_images_the_list_says_what_to_do(client: Client, bob: User, vera: User) -> None:
    client.force_login(bob)
    assert reverse("images:upload") in page(client, LIST)
    client.force_login(vera)
    assert reverse("images:upload") not in page(client, LIST)


def test_the_number_of_queries_does_not_grow_with_the_images(
    client: Client, project: Project, alice: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(12):
        image = Image.objects.create(slug=f"i{number}", title=f"Image {number}", source=Source.UPLOAD, project=project)
        version = ImageVersion.objects.create(image=image, number=1)
        jobs.enqueue(JobName.IMAGE_IMPORT, version, queue="images", actor=alice, project=project)
    client.force_login(alice)
    with django_assert_max_num_queries(8):
        page(client, LIST)
    for number in range(2, 12):
        ImageVersion.objects.create(image=image, number=number, status=VersionStatus.READY)
    with django_assert_max_num_queries(12):
        page(client, detail(image))


# --- one image ----------------------------------------------------------------------------------------------------


def test_names_and_reasons_are_text_never_markup(client: Client, own_image: Image, bob: User) -> None:
    nasty = "<img src=x onerror=alert(1)>"
    Image.objects.update(title=nasty, description=nasty)
    version = ImageVersion.objects.create(
        image=own_image, number=1, status=VersionStatus.FAILED, error=nasty, upload_name=nasty
    )
    client.force_login(User.objects.create_user("root", is_staff=True))
    for path in (LIST, detail(own_image), delete(version)):
        text = page(client, path)
        assert nasty not in text
        assert "&lt;img src=x" in text


def test_the_page_shows_the_steps_of_what_is_being_made(client: Client, image: Image, operator: User) -> None:
    version = ImageVersion.objects.create(image=image, number=3)
    jobs.enqueue(JobName.IMAGE_BUILD, version, queue="images", actor=operator, project=None)
    client.force_login(operator)
    text = page(client, detail(image))
    assert "Version 3 is being made" in text
    assert "Build the disk" in text
    assert "Offer it in the catalogue" in text


def test_a_version_being_deleted_shows_while_its_job_runs(client: Client, image: Image, operator: User) -> None:
    version = ImageVersion.objects.create(image=image, number=7, status=VersionStatus.DELETING)
    job = jobs.enqueue(JobName.IMAGE_DELETE, version, queue="images", actor=operator, project=None)
    client.force_login(operator)
    assert "Version 7" in page(client, detail(image))
    Job.objects.filter(pk=job.pk).update(status=JobStatus.DONE)
    assert "Version 7" not in page(client, detail(image))


def test_only_operators_build(client: Client, image: Image, alice: User, operator: User) -> None:
    path = reverse("images:build", args=[image.pk])
    client.force_login(alice)
    assert path not in page(client, detail(image))
    assert client.post(path).status_code == 403
    assert not ImageVersion.objects.exists()
    client.force_login(operator)
    assert path in page(client, detail(image))
    assert client.post(path).status_code == 302
    assert client.post(path).status_code == 302  # A second click starts no second build.
    assert Job.objects.get().name == JobName.IMAGE_BUILD
    assert Event.objects.get().action == "image.build"


def test_the_number_of_a_deleted_version_is_not_given_again(client: Client, image: Image, operator: User) -> None:
    ImageVersion.objects.create(image=image, number=4, status=VersionStatus.DELETING)
    client.force_login(operator)
    assert client.post(reverse("images:build", args=[image.pk])).status_code == 302
    assert set(image.versions.values_list("number", flat=True)) == {4, 5}


def test_an_upload_cannot_be_built(client: Client, own_version: ImageVersion, operator: User) -> None:
    client.force_login(operator)
    assert client.post(reverse("images:build", args=[own_version.image_id])).status_code == 422


# --- deleting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("who", "status"), [("bob", 403), ("vera", 403), ("charlie", 404)])
def test_only_owners_delete_their_projects_versions(
    client: Client, own_version: ImageVersion, request: pytest.FixtureRequest, who: str, status: int
) -> None:
    client.force_login(request.getfixturevalue(who))
    assert client.get(delete(own_version)).status_code == status
    assert client.post(delete(own_version)).status_code == status
    own_version.refresh_from_db()
    assert own_version.status == VersionStatus.READY
    assert not Event.objects.exists()


@pytest.mark.parametrize("who", ["alice", "operator"])
@pytest.mark.parametrize("state", [VersionStatus.READY, VersionStatus.FAILED])
def test_owners_and_operators_delete_ready_and_failed_versions(
    client: Client, own_version: ImageVersion, request: pytest.FixtureRequest, who: str, state: str
) -> None:
    ImageVersion.objects.update(status=state)
    client.force_login(request.getfixturevalue(who))
    words = page(client, delete(own_version))
    assert "deleted for good" in words
    assert "goes with it" in words  # It is the image's only version.
    assert client.post(delete(own_version)).status_code == 302
    own_version.refresh_from_db()
    assert own_version.status == VersionStatus.DELETING
    assert Job.objects.get().name == JobName.IMAGE_DELETE
    assert Event.objects.get().action == "image.deleted"


def test_owners_do_not_delete_what_is_for_everyone(client: Client, image_version: ImageVersion, alice: User) -> None:
    client.force_login(alice)
    assert client.post(delete(image_version)).status_code == 403


def test_the_words_name_what_new_machines_get_then(
    client: Client, image: Image, image_version: ImageVersion, operator: User
) -> None:
    client.force_login(operator)
    assert "No other version is ready" in page(client, delete(image_version))
    ImageVersion.objects.create(image=image, number=2, status=VersionStatus.READY)
    assert "New machines can be made from version 2." in page(client, delete(image_version), **HTMX)


def test_a_version_with_machines_stays(
    client: Client, machine: Machine, image_version: ImageVersion, operator: User
) -> None:
    client.force_login(operator)
    assert machine.image_version == image_version
    version = image_version
    words = page(client, delete(version))
    assert "1 machine is based on it" in words
    assert "btn-danger" not in words
    assert client.post(delete(version)).status_code == 409
    Machine.objects.update(status=Status.DELETED)
    assert client.post(delete(version)).status_code == 302


def test_machines_are_offered_from_an_image_where_they_can_be_made(
    client: Client, own_version: ImageVersion, image_version: ImageVersion, bob: User, vera: User
) -> None:
    link = f"{reverse('machines:new')}?image={own_version.image_id}"
    client.force_login(bob)
    assert link in page(client, detail(own_version.image))
    client.force_login(vera)
    assert link not in page(client, detail(own_version.image))


@pytest.mark.parametrize("kind", Kind.values)
def test_every_kind_has_its_picture(client: Client, image_version: ImageVersion, alice: User, kind: str) -> None:
    Image.objects.update(kind=kind)
    client.force_login(alice)
    assert '<svg class="picture' in page(client, detail(image_version.image))


def test_someone_without_a_project_adds_no_image(make_user: Callable[..., User]) -> None:
    lone = make_user("lone")
    client = Client()
    client.force_login(lone)
    assert client.get(LIST).status_code == 200
    assert client.get(reverse("images:upload")).status_code == 403
