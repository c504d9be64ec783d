"""Mutants of deployments on Flower: keys, commands and policies, as far as they need no Flower."""

from tests.mutants.mutant import in_file

_TEST = "tests/deployment/test_engines.py::test_"
_KEYS = _TEST + "keys_stay_where_they_belong"
_COMMANDS = _TEST + "commands_have_tls_and_keys_and_what_would_be_sent_home_is_off"
_TRUST = _TEST + "sites_trust_the_certificate_of_their_server_alone"
_PAGE = _TEST + "a_page_of_keys_has_what_is_wrong_with_them"
_LOG = _TEST + "the_end_of_a_log_has_no_colors_and_nothing_of_earlier_runs"
_LOCAL = _TEST + "a_site_of_a_folder_has_its_own_policy"
MUTANTS = (
    *in_file(
        "fedrecon/deployment/flower/kits.py",
        (
            "os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600",
            "os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644",
            _KEYS,
        ),
        ("x509.BasicConstraints(True, 0)", "x509.BasicConstraints(False, None)", _TRUST),
        ("names += [found] if found not in names else []", "names += []", _TRUST),
        ('"FLWR_TELEMETRY_ENABLED": "0"', '"FLWR_TELEMETRY_ENABLED": "1"', _COMMANDS),
        ('"site.key", private(key, ssh), secret=True)', '"site.key", private(key, ssh))', _KEYS),
    ),
    *in_file(
        "fedrecon/deployment/flower/party.py",
        (
            '*("--enable-supernode-auth", "--isolation", "process"),',
            '*("--isolation", "process"),',
            _COMMANDS,
        ),
        ('"127.0.0.1" if local else "0.0.0.0"', '"0.0.0.0"', _COMMANDS),
        ('"    os._exit(1)",', '"    pass",', _COMMANDS),
        ('probe.bind(("127.0.0.1", port))', 'probe.bind(("127.0.0.1", 0))', _TEST + "a_port_in_use_is_named"),
    ),
    *in_file(
        "experiments/pipeline/deploy_check.py",
        ("mode = file.stat().st_mode & 0o077", "mode = 0", _PAGE),
    ),
    *in_file(
        "experiments/pipeline/deploy_processes.py",
        ("file.read_bytes()[start:]", "file.read_bytes()", _LOG),
    ),
    *in_file(
        "fedrecon/deployment/engine.py",
        (
            "if self.pinned and minor_version(self.package) != needed:",
            "if self.pinned and minor_version(self.package) < needed:",
            _TEST + "another_minor_version_of_flower_is_refused",
        ),
    ),
    *in_file(
        "fedrecon/deployment/parties.py",
        ("    if unknown := values.keys() - known:", "    if unknown := set():", _LOCAL),
    ),
)
