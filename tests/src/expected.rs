//! What the reference (Debian's 1.1.1) cannot do: tests that have to fail against it, and why.

/// Why the test fails against the reference; `None` if it has to pass.
pub fn reason(test: &str) -> Option<&'static str> {
    FAILURES.iter().find(|(_, tests)| tests.contains(&test)).map(|(reason, _)| *reason)
}

/// A reason, and the tests that fail for it.
pub const FAILURES: &[(&str, &[&str])] = &[
    (
        "firewall knows iptables alone: it needs both programs, and does not look at what else drops",
        &[
            "firewall_backend::a_program_that_cannot_be_started_is_not_one_that_is_missing",
            "firewall_backend::rules_in_either_place_do_where_nothing_drops",
            "firewall_backend::x_tables_that_nobody_can_read_are_said_to_be_there",
            "firewall_policy::a_set_of_another_type_is_said_to_be_one",
            "firewall_policy::what_is_mended_is_there_once",
        ],
    ),
    (
        "firewall's rules have no owner, and a jump counts whatever its conditions",
        &[
            "firewall_backend::a_jump_with_conditions_is_none",
            "firewall_life::a_late_del_leaves_the_references_rules_to_its_new_pod",
            "firewall_life::an_administrators_rule_about_a_pod_is_not_the_references",
        ],
    ),
    (
        "firewalld may answer what it likes, or nothing, for as long as it likes; sources have no owner",
        &[
            "firewall_firewalld::a_bus_that_takes_no_connection_is_not_waited_for_long",
            "firewall_firewalld::a_firewalld_that_hangs_is_named_with_what_it_did_not_answer",
            "firewall_firewalld::a_source_that_was_moved_since_stays_there",
            "firewall_firewalld::add_without_an_answer_is_told",
            "firewall_firewalld::an_administrators_own_source_is_not_taken_over",
            "firewall_firewalld::del_keeps_what_it_cannot_ask_for",
            "firewall_firewalld::status_knows_the_zones",
            "firewall_firewalld::waiting_for_other_calls_takes_nothing_from_firewallds_time",
        ],
    ),
    (
        "policies are never taken back, and hold between a bridge's ports only with br_netfilter",
        &[
            "firewall_policy::a_second_add_takes_the_place_of_the_first",
            "firewall_policy::isolated_pods_are_so_from_all_pods_of_their_bridge",
        ],
    ),
    (
        "1.1.1 is older than CNI 1.1.0: no GC, no STATUS, no route attributes",
        &[
            "chain_del::gc_of_bandwidth_takes_exactly_the_stale",
            "chain_del::gc_of_firewall_same_bridge_takes_exactly_the_stale",
            "chain_del::gc_of_firewall_takes_exactly_the_stale",
            "chain_del::gc_of_firewall_with_iptables_takes_exactly_the_stale",
            "chain_del::gc_of_portmap_takes_exactly_the_stale",
            "chain_del::gc_of_portmap_with_iptables_takes_exactly_the_stale",
            "chain_del::gc_of_tuning_takes_exactly_the_stale",
            "chain_verbs::status_is_fine_where_add_would_work",
            "chain_verbs::status_says_why_add_could_not_work",
            "chain_verbs::the_result_passes_through_but_for_what_a_plugin_adds",
            "gc_status::another_attachment_of_a_valid_container_goes",
            "gc_status::gc_and_status_through_cnitool",
            "gc_status::gc_of_host_local_alone_frees_reservations",
            "gc_status::namespaces_that_are_gone_do_not_matter",
            "gc_status::other_networks_are_left_alone",
            "gc_status::static_and_loopback_have_nothing_to_collect",
            "gc_status::status_is_fine_where_add_would_work",
            "gc_status::status_says_why_add_could_not_work",
            "gc_status::the_early_spelling_of_the_list_is_understood",
            "gc_status::what_is_not_in_the_list_goes",
            "gc_status::without_a_list_nothing_goes",
            "protocol::gc_and_status_need_one_point_one",
            "protocol::gc_and_status_need_the_path_alone",
            "protocol::one_point_one_is_spoken",
            "results::one_point_one_keeps_all_that_a_route_has",
            "routes::mtu_and_advmss_are_set",
            "routes::table_scope_and_priority_are_set",
            "routes::the_next_hop_is_the_routes_or_the_gateway",
        ],
    ),
    (
        "1.1.1 has no vlanTrunk, leaves every port in the bridge's default VLAN, and turns filtering on only where it makes \
         the bridge",
        &[
            "vlan::a_port_is_in_its_vlans_alone",
            "vlan::a_trunk_is_the_union_of_its_items",
            "vlan::our_bridge_begins_to_filter_under_its_pods",
            "vlan_traffic::a_trunk_reaches_the_pods_of_its_vlans_and_no_others",
            "vlan_traffic::a_trunks_native_vlan_is_its_access_vlan",
            "vlan_traffic::in_a_vlan_the_spoof_filter_holds_whatever_the_tag",
            "vlan_traffic::no_tag_leads_out_of_a_vlan",
            "vlan_traffic::the_default_vlan_leads_in_and_a_tag_leads_out",
        ],
    ),
    (
        "never removes the gateway of a VLAN, and the host takes router advertisements by it",
        &[
            "vlan_gateway::it_goes_with_the_last_pod_of_its_vlan",
            "vlan_gateway::it_stays_for_whoever_else_is_in_its_vlan",
            "vlan_gateway::no_pod_is_the_hosts_router_by_the_gateway",
        ],
    ),
    (
        "announces before the port forwards, so neighbours find out when their entries expire",
        &["announce::a_reused_address_answers_the_host_and_a_sibling_at_once"],
    ),
    (
        "the bridge's own link-local address is under duplicate detection for a second or two",
        &["announce::the_first_pod_of_a_bridge_is_reached_from_outside_at_once"],
    ),
    (
        "1.1.1 replaces IPAM's DNS by the config's even where that is empty",
        &["bridge_add::dns_of_the_config_replaces_that_of_ipam"],
    ),
    (
        "adds a second default route, and fails: file exists",
        &["bridge_add::is_default_gateway_goes_with_an_ipam_default_route_without_a_gateway"],
    ),
    (
        "portIsolation came with 1.3",
        &[
            "bridge_add::isolated_ports_reach_the_gateway_but_not_each_other",
            "bridge_link::hairpin_and_isolation_are_flags_of_the_port",
            "examples::isolation",
            "portmap_traffic::isolated_ports_stay_isolated_where_the_kernel_forwards_frames",
        ],
    ),
    (
        "1.1.1 is older than CNI 1.1.0, and bandwidth has no GC and no STATUS",
        &["bandwidth_verbs::gc_removes_what_is_not_in_the_list", "bandwidth_verbs::status_makes_nothing"],
    ),
    (
        "a bucket that no packet fits into makes a pod that hangs",
        &["bandwidth_add::a_bucket_that_no_packet_fits_into_is_refused"],
    ),
    (
        "computes the bucket in whole microseconds: too small for a packet that just fits",
        &["bandwidth_rate::a_bucket_of_one_packet", "bandwidth_rate::a_bucket_of_one_packet_at_a_rate_beyond_32_bits"],
    ),
    (
        "tuning restores whatever has the name at the path, whose pod that may be by now",
        &["tuning_verbs::a_late_del_of_the_references_pod_leaves_alone_who_has_its_path_now"],
    ),
    (
        "bandwidth needs results that list interfaces",
        &["bandwidth_add::old_versions_of_results_say_nothing_of_interfaces"],
    ),
    ("asks for the redirection twice", &["bandwidth_add::one_action_redirects"]),
    (
        "leaves the ifb behind when the hook is taken",
        &["bandwidth_add::somebody_elses_queueing_discipline_is_left_alone"],
    ),
    (
        "the queue is 25 ms and a whole bucket long, whatever the bucket's size",
        &[
            "bandwidth_add::the_queue_is_as_long_as_asked_for",
            "bandwidth_rate::the_queue_and_the_bucket_can_be_bounded",
        ],
    ),
    (
        "the ifb's name says nothing of the interface: file exists",
        &[
            "bandwidth_add::two_attachments_of_a_container_have_an_ifb_each",
            "bandwidth_verbs::an_unmarked_ifb_is_not_taken_from_its_user",
            "bandwidth_verbs::without_a_result_an_unmarked_ifb_is_its_users",
        ],
    ),
    ("panics without prevResult", &["bandwidth_add::without_a_previous_result_it_says_that_it_is_chained"]),
    (
        "CHECK without limits panics in 1.1.1, later it wants a veth",
        &[
            "bandwidth_add::without_limits_any_interface_will_do",
            "bandwidth_add::without_limits_the_result_passes_through",
        ],
    ),
    (
        "a second ADD and one that was killed: file exists; DEL leaves the queueing disciplines to the link",
        &[
            "bandwidth_verbs::a_second_add_replaces_the_first",
            "bandwidth_verbs::check_knows_the_buckets_of_low_rates",
            "bandwidth_verbs::del_leaves_a_link_as_it_was",
            "bandwidth_verbs::killed_at_any_moment_del_cleans_and_add_works",
            "bandwidth_verbs::limits_that_the_config_no_longer_has",
        ],
    ),
    ("undoes nothing", &["bandwidth_verbs::a_result_that_nobody_can_read_undoes_everything"]),
    (
        "CHECK says what differs but not how, and does not look at the redirection",
        &["bandwidth_verbs::check_notices_what_is_missing_or_different"],
    ),
    ("bandwidth's DEL validates the config", &["bandwidth_verbs::del_needs_nothing_but_who_it_is_about"]),
    ("keep_addr_on_down came after 1.1.1", &["bridge_add::the_pods_sysctls_are_those_of_the_reference"]),
    (
        "an IPv4 address of another range conflicts",
        &["bridge_add::two_ranges_of_one_family_work_with_a_gateway", "examples::several_ranges"],
    ),
    ("CHECK does not look at hairpin, isolation, MTU", &["bridge_check::notices_a_changed_port"]),
    (
        "CHECK fails for every IPv4 route without a gateway (fixed in 1.2)",
        &["bridge_check::notices_a_lost_address_or_route"],
    ),
    ("CHECK does not look at the bridge's addresses", &["bridge_check::notices_a_lost_gateway_address"]),
    (
        "CHECK of layer 2 fails: no plugin name provided",
        &[
            "bridge_check::notices_a_lost_link",
            "check_matrix::every_config_passes_right_after_add_whoever_looks_at_packets",
            "layer2::check_passes",
            "examples::layer2",
        ],
    ),
    ("CHECK does not look at the spoof filter", &["bridge_check::notices_a_lost_spoof_filter"]),
    ("CHECK does not look at masquerade", &["bridge_check::notices_lost_masquerade"]),
    (
        "the MAC of a bridge without gateway moves as ports come and go",
        &[
            "bridge_check::passes_for_older_pods_while_pods_come_and_go",
            "bridge_link::the_bridges_mac_stays_while_pods_come_and_go",
        ],
    ),
    (
        "these are its false alarms",
        &[
            "bridge_check::passes_for_what_the_reference_gives_false_alarms_for",
            "bridge_check::passes_where_other_routes_reach_the_gateway",
        ],
    ),
    (
        "CHECK wants promisc exactly as configured",
        &["bridge_check::passes_while_somebody_captures_packets_on_the_bridge"],
    ),
    (
        "DEL validates the config",
        &[
            "bridge_del::a_config_that_became_invalid_can_still_release",
            "chain_del::bandwidth_whatever_is_missing",
            "chain_del::bridge_whatever_is_missing",
            "chain_del::bridge_with_a_spoof_filter_whatever_is_missing",
            "chain_del::bridge_with_iptables_whatever_is_missing",
            "chain_del::the_whole_chain_whatever_is_missing",
            "chain_del::firewall_same_bridge_whatever_is_missing",
            "chain_del::firewall_whatever_is_missing",
            "chain_del::firewall_with_iptables_whatever_is_missing",
            "chain_del::portmap_whatever_is_missing",
            "chain_del::portmap_with_iptables_whatever_is_missing",
            "chain_del::tuning_whatever_is_missing",
        ],
    ),
    (
        "ingressPolicy \"isolated\" came after 1.1.1",
        &[
            "chain_del::firewall_isolated_whatever_is_missing",
            "chain_undo::whatever_a_second_add_does_del_leaves_nothing",
        ],
    ),
    ("DEL without portMappings removes nothing", &["chain_upgrade::portmap_is_removed_without_the_ports"]),
    ("tuning's backup stays when the namespace is gone", &["chain_upgrade::tuning_is_removed_without_the_namespace"]),
    (
        "portmap's CHECK looks for IPv4's rules among IPv6's",
        &[
            "chain_conflists::podmans_with_check",
            "chain_undo::many_chains_at_once_do_not_disturb_each_other",
            "chain_upgrade::pods_of_both_suites_live_side_by_side",
            "chain_verbs::check_passes_right_after_add",
            "chain_verbs::check_passes_with_parts_of_the_configs",
            "chain_verbs::the_whole_chain_passes_check_in_newer_versions",
        ],
    ),
    (
        "firewall and bandwidth do not speak all versions",
        &["chain_verbs::every_version_is_spoken_by_every_plugin", "chain_verbs::the_whole_chain_in_older_versions"],
    ),
    (
        "bandwidth without limits and without a previous result panics",
        &["chain_verbs::with_nothing_to_do_a_missing_previous_result_is_an_error_too"],
    ),
    (
        "without the interface's addresses DEL does not find the masquerade rules",
        &[
            "bridge_del::after_the_hosts_end_was_removed_or_unplugged",
            "bridge_del::after_the_interface_was_renamed_or_removed",
        ],
    ),
    (
        "DEL removes whatever has the name in the namespace",
        &[
            "bridge_del::an_interface_that_took_the_name_is_not_ours_to_remove",
            "bridge_del::with_another_networks_pod_at_the_path",
            "bridge_del::with_another_pod_at_the_path",
        ],
    ),
    (
        "DEL releases the address before it removes the rules",
        &["bridge_del::the_address_is_released_when_nobody_can_use_it_any_more"],
    ),
    (
        "DEL wants the path to be a namespace: unknown FS magic",
        &["bridge_del::with_something_else_at_the_path", "loopback::del_with_something_else_at_the_path_is_fine"],
    ),
    (
        "DEL without the namespace releases the address and nothing else",
        &[
            "bridge_del::without_the_namespace",
            "chain_conflists::podmans_after_the_namespace_is_gone",
            "chain_upgrade::the_whole_chain_is_removed_without_the_namespace",
            "macspoof::it_is_gone_after_del_without_the_namespace",
            "masquerade::the_iptables_backend_is_removed_without_the_namespace",
            "masquerade::an_address_taken_over_belongs_to_its_new_owner",
            "reference_pods::are_removed_by_del_without_the_namespace",
            "rootless::a_namespace_by_its_process",
        ],
    ),
    ("leaves the MTU of a bridge that exists", &["bridge_link::mtu_of_an_operators_bridge_is_never_ignored"]),
    ("mtu is a number", &["bridge_link::mtu_auto_is_that_of_the_default_routes_link"]),
    (
        "its binaries are larger than 2.2 MB and, as Debian builds them, dynamic",
        &[
            "bridge_link::the_binaries_are_small_and_alone",
            "chain_bare::add_check_del_and_gc_need_no_program",
            "chroot::add_needs_proc_alone",
            "chroot::version_and_about_work_with_nothing_at_all",
        ],
    ),
    (
        "a first ADD that fails leaves a bridge without ports, whose address is zero and cannot be set",
        &["bridge_link::a_first_add_that_fails_does_not_poison_the_bridge"],
    ),
    ("an empty name is an empty name", &["bridge_link::the_bridge_has_a_default_name"]),
    (
        "leaves the host end's MAC to the kernel, and to udev",
        &["bridge_link::the_hosts_end_of_a_veth_has_a_mac_that_udev_leaves_alone"],
    ),
    ("marks nothing", &["bridge_link::the_hosts_end_tells_whose_it_is"]),
    (
        "disableContainerInterface and ipMasqBackend came after 1.1.1",
        &["config_errors::combinations_of_newer_keys_that_contradict", "layer2::the_pods_link_can_stay_down"],
    ),
    (
        "finds out late, and leaves the bridge and the veth pair behind",
        &[
            "config_errors::ipam_that_is_missing_or_fails",
            "config_errors::values_that_no_link_can_have",
            "delegate::fails_with_its_own_error",
            "delegate::is_asked_to_release_when_add_fails_after_it",
            "delegate::may_die_without_a_word_or_talk_nonsense",
            "layer2::versions_that_cannot_say_it_are_refused_with_nothing_done",
            "routes::a_route_that_cannot_be_undoes_the_add",
            "undo::a_failed_first_add_leaves_not_even_the_bridge",
            "undo::a_full_pool_leaves_nothing",
        ],
    ),
    ("vlanTrunk came with 1.2, without it 1.1.1 makes the pod", &["config_errors::vlan_trunks_that_make_no_sense"]),
    (
        "names the wanted address only",
        &[
            "conflict::an_ipv6_address_conflicts_only_where_prefixes_overlap",
            "conflict::an_operators_bridge_keeps_its_address",
            "conflict::with_pods_the_conflict_names_both_addresses_and_changes_nothing",
        ],
    ),
    ("does not know which bridges are its own", &["conflict::our_bridge_without_pods_takes_the_new_address"]),
    ("the gateway's address is under duplicate detection when ADD returns", &["dad::addresses_work_when_add_returns"]),
    ("the duplicate goes unnoticed: the port does not forward yet", &["dad::with_enabledad_a_duplicate_is_found"]),
    ("a failing delegate's stderr is dropped", &["delegate::is_heard_on_stderr_in_success_and_failure"]),
    ("a failed duplicate ADD frees what the running container has", &["host_local::a_failed_duplicate_frees_nothing"]),
    ("waits for the lock for ever", &["host_local::a_lock_that_is_never_released_is_an_error_with_its_holder"]),
    ("does not say who has the address", &["host_local::a_requested_address_that_is_held_is_refused_with_its_holder"]),
    (
        "knows nothing of the owner but its name: no reservation is ever reclaimed",
        &[
            "host_local::a_restart_into_another_namespace_gets_its_address_back",
            "host_local::the_full_pool_of_a_node_that_crashed_is_reclaimed",
            "host_local::a_reclaimed_address_is_told_with_its_owner",
            "host_local::a_requested_address_is_taken_over_from_a_pod_that_is_gone",
        ],
    ),
    (
        "reserves first and finds out then that the store is full",
        &["host_local::a_store_that_cannot_be_written_leaves_no_reservation"],
    ),
    ("CHECK does not compare the address", &["host_local::check_looks_for_the_address"]),
    ("1.1.1 makes the files 0644, later releases 0600", &["host_local::the_store_has_the_modes_of_the_reference"]),
    ("an empty file blocks its address", &["host_local::torn_and_empty_files_are_nobodys"]),
    (
        "1.1.1 prints an empty dns in a 1.0.0 result",
        &["loopback::a_previous_result_passes_through", "static_ipam::without_addresses_the_result_has_none"],
    ),
    ("has nft do it", &["macspoof::it_holds_before_the_pod_can_send"]),
    ("ipMasq is true or false", &["masquerade::a_family_can_be_left_out"]),
    (
        "its comments are too long for nft to read them again",
        &["masquerade::long_names_of_network_and_container_still_make_a_loadable_ruleset"],
    ),
    (
        "two attachments of a container share a chain, and the first DEL takes it away",
        &[
            "masquerade::one_of_two_attachments_can_go",
            "masquerade::one_of_two_attachments_can_go_with_the_iptables_backend",
        ],
    ),
    ("has rules of its own for each pod", &["masquerade::the_default_backend_needs_no_rule_for_a_pod"]),
    (
        "in one chain the second subnet's exemption comes too late",
        &["masquerade::two_ranges_of_one_family_are_both_masqueraded_and_exempted"],
    ),
    (
        "runs iptables and nft, many times",
        &["processes::add_and_del_start_ipam_alone", "processes::the_iptables_backend_needs_one_restore_per_family"],
    ),
    (
        "the rules of a pod that is gone win",
        &[
            "coexistence::a_stale_rule_of_the_reference_does_not_win",
            "upgrade_ports::what_is_left_of_the_reference_does_not_win_over_a_later_pod_of_ours",
            "upgrade_ports::what_is_left_of_the_reference_in_legacy_iptables_does_not_win_either",
        ],
    ),
    (
        "DEL of firewall without a result removes nothing",
        &["chain_upgrade::firewall_is_removed", "chain_upgrade::the_whole_chain_is_removed"],
    ),
    (
        "of two chains with one priority the first wins",
        &["coexistence::a_node_port_in_nftables_wins_over_a_published_port_of_the_same_number"],
    ),
    (
        "nft does not read back what it lists of the iptables rules",
        &["coexistence::the_ruleset_that_nft_lists_can_be_loaded_again"],
    ),
    (
        "firewall accepts answers to a pod, but not new connections to its published ports",
        &["coexistence::with_the_firewall_plugin_published_ports_work_beside_docker"],
    ),
    (
        "firewall writes to the iptables of its host alone, whatever drops elsewhere",
        &[
            "coexistence::with_the_firewall_plugin_pods_get_out_beside_docker_of_legacy_iptables",
            "coexistence::with_the_firewall_plugin_published_ports_work_beside_docker_of_legacy_iptables",
        ],
    ),
    (
        "CHECK of two families looks for the rules of one in the table of the other",
        &["coexistence::a_flushed_ruleset_is_noticed_by_check_and_repaired_by_the_next_add"],
    ),
    ("has chains of its own", &["coexistence::the_document_names_every_chain_that_packets_pass"]),
    (
        "forgets all UDP flows to a port of this number, wherever they go",
        &["portmap_traffic::udp_flows_that_do_not_go_by_the_port_are_left_alone"],
    ),
    ("the mapping that came first wins", &["portmap_traffic::a_mapping_with_a_host_ip_wins_over_one_for_any_address"]),
    (
        "has no nftables backend in 1.1.1, and none of its rules are elements",
        &[
            "portmap_add::addresses_of_services_come_and_go_without_a_false_alarm",
            "portmap_add::adds_at_the_same_time_do_not_forget_an_address",
            "portmap_add::another_add_of_the_same_replaces_what_was_there",
            "portmap_add::each_mapping_is_an_element_of_the_pods_families_with_its_owner",
            "portmap_add::maps_of_conditions_go_when_they_change",
            "portmap_add::protocols_are_taken_in_any_case",
            "portmap_add::what_the_other_backend_made_at_an_earlier_add_goes",
            "portmap_add::what_nft_lists_nft_reads_back",
            "portmap_check::every_rule_and_element_that_is_gone_is_noticed",
            "portmap_conflict::an_element_that_says_nothing_of_its_owner_is_respected",
            "portmap_conflict::mappings_under_different_conditions_do_not_conflict",
            "portmap_conflict::who_shares_conditions_keeps_them_when_another_goes",
            "portmap_conflict::whoever_had_the_pods_address_before_does_not_block_another_port",
            "portmap_del::elements_are_found_where_somebody_has_emptied_the_set_of_owners",
            "portmap_del::the_ports_of_others_are_not_looked_at",
            "portmap_gc::other_networks_and_the_operators_elements_stay",
        ],
    ),
    (
        "makes entry rules for families for which there is nothing to publish",
        &["portmap_add::a_pod_without_ports_changes_nothing"],
    ),
    (
        "says nothing of programs that listen on a published port",
        &["portmap_add::a_program_of_the_host_that_listens_on_the_port_is_named"],
    ),
    ("says nothing of a hostIP that nobody reaches", &["portmap_add::a_host_ip_that_is_not_reached_is_told_of"]),
    (
        "an ADD without ports leaves those of an earlier one",
        &["portmap_add::a_second_add_without_ports_takes_back_what_the_first_made"],
    ),
    (
        "needs longer for a thousand ports than any runtime waits",
        &["portmap_conflict::a_thousand_ports_that_are_taken_are_refused_or_replaced_as_one"],
    ),
    (
        "leaves everything when the result cannot be written",
        &["portmap_add::a_result_that_nobody_can_read_undoes_everything"],
    ),
    (
        "a pod reaches itself only with hairpinMode in the config of bridge",
        &["portmap_add::hairpin_mode_is_turned_on_where_it_is_needed_and_undone"],
    ),
    (
        "finds out from iptables what cannot work, when half is done; knows no backend and no duplicates",
        &["portmap_add::what_cannot_work_is_refused_with_nothing_done"],
    ),
    (
        "CHECK of 1.1.1 looks for the IPv4 rules in ip6tables, and fails",
        &[
            "portmap_add::a_second_add_that_fails_leaves_what_the_first_made",
            "portmap_check::other_values_are_said",
            "portmap_check::the_references_pods_pass",
            "portmap_check::the_setting_for_127_0_0_1_is_looked_at",
            "portmap_iptables::check_compares_ports_under_any_conditions",
            "portmap_iptables::check_misses_each_rule",
            "portmap_iptables::rules_of_legacy_iptables_are_removed",
            "portmap_iptables::shared_chains_that_somebody_made_in_between_keep_their_rules",
            "portmap_iptables::the_rules_are_the_references",
            "portmap_iptables::what_only_iptables_can_say_is_said_to_iptables",
        ],
    ),
    (
        "does not notice that a port is taken, and leaves a dead pod's rules in front",
        &[
            "portmap_conflict::a_host_link_with_its_second_name_is_known",
            "portmap_conflict::a_live_pods_port_is_refused_with_its_name_and_nothing_done",
            "portmap_conflict::a_live_pods_port_is_refused_whatever_backend_published_it",
            "portmap_conflict::a_port_of_a_pod_that_is_certainly_gone_is_taken_over",
            "portmap_conflict::a_restart_of_the_same_container_takes_its_own_back",
            "portmap_conflict::conditions_take_nothing_from_a_pod_that_has_the_port_without_any",
            "portmap_conflict::one_sign_of_death_is_not_enough",
            "portmap_conflict::the_iptables_backend_respects_a_live_pods_port_too",
            "portmap_conflict::who_has_the_port_by_the_reference_is_named_in_the_log",
            "portmap_conflict::without_a_link_of_our_bridge_nothing_speaks_against_a_holder",
            "portmap_iptables::a_port_that_is_another_attachments_by_either_backend_is_refused",
            "portmap_iptables::the_references_pods_keep_their_ports",
            "portmap_iptables::what_our_own_tables_have_of_one_that_is_gone_is_no_obstacle",
        ],
    ),
    (
        "one chain for all interfaces that a container has in a network",
        &[
            "portmap_del::del_of_another_container_touches_nothing",
            "portmap_del::other_attachments_of_the_container_keep_their_ports",
        ],
    ),
    (
        "DEL without portMappings removes nothing",
        &[
            "portmap_del::a_changed_backend_leaves_nothing_behind",
            "portmap_del::nothing_is_left_of_the_iptables_backend",
            "portmap_del::nothing_is_left_under_conditions",
            "portmap_del::nothing_is_left_whatever_is_known",
            "portmap_del::the_references_pods_lose_their_rules",
            "portmap_iptables::a_stale_address_in_the_chain_is_not_another_interfaces",
            "portmap_iptables::the_references_chain_of_another_interface_than_eth0_goes",
        ],
    ),
    ("runs iptables", &["portmap_del::no_program_is_needed", "portmap_iptables::without_the_program_nothing_is_done"]),
    (
        "GC and STATUS came after 1.1.1, and do nothing since",
        &[
            "portmap_gc::exactly_the_stale_ones_go",
            "portmap_gc::status_says_whether_add_could_work",
            "portmap_gc::the_references_chains_go_too",
        ],
    ),
    (
        "a second ADD leaves the old rules in front",
        &["portmap_iptables::a_second_add_changes_nothing_and_another_replaces"],
    ),
    (
        "catches what is sent to any address of the host, whatever link it is on",
        &[
            "portmap_traffic::addresses_of_dummies_are_not_caught",
            "portmap_traffic::addresses_of_services_in_ipvs_mode_are_not_caught",
            "portmap_traffic::services_that_come_after_the_last_add_are_not_caught",
            "portmap_traffic::the_hosts_own_server_at_ipv6_loopback_is_left_alone",
        ],
    ),
    (
        "route_localnet opens 127.0.0.1 to the neighbours",
        &[
            "portmap_iptables::no_link_to_a_gateway_is_opened_for_the_loopback",
            "portmap_iptables::the_loopback_is_guarded_by_the_same_chain_as_with_our_own_tables",
            "portmap_traffic::neighbours_do_not_reach_what_listens_at_127_0_0_1_by_iptables",
            "portmap_traffic::neighbours_do_not_reach_what_listens_at_127_0_0_1_by_nftables",
        ],
    ),
    (
        "DEL does not forget UDP flows",
        &[
            "portmap_traffic::a_steady_udp_sender_follows_the_port_when_del_does_not_know_the_ports",
            "portmap_traffic::a_steady_udp_sender_on_the_host_follows_the_port",
            "portmap_traffic::v4_a_steady_udp_sender_follows_the_port",
            "portmap_traffic::v6_a_steady_udp_sender_follows_the_port",
        ],
    ),
    (
        "a pod reaches itself only with hairpinMode in the config of bridge",
        &[
            "portmap_traffic::a_named_address_on_a_link_of_services_is_served",
            "portmap_traffic::v4_from_the_pod_itself_where_bridged_frames_pass_the_hosts_rules",
            "portmap_traffic::v6_from_the_pod_itself_where_bridged_frames_pass_the_hosts_rules",
        ],
    ),
    ("masqAll came after 1.1.1", &["portmap_traffic::with_masq_all_everybody_is_seen_as_the_gateway"]),
    ("its errors have no cniVersion", &["protocol::an_error_is_one_object_with_version_code_and_message"]),
    ("1.1.1 names missing variables first", &["protocol::the_first_bad_variable_comes_before_missing_ones"]),
    (
        "finds out when everything is done, and leaves it",
        &["protocol::the_hosts_own_namespace_is_refused_with_nothing_done"],
    ),
    ("1.1.1 has no nftables backend", &["reference_pods::of_newer_releases_lose_their_nftables_rules_too"]),
    (
        "1.1.1 prints 1.0.0 results in another order of keys",
        &["results::bridge_in_each_version", "results::host_local_to_the_byte"],
    ),
    ("prints results of the new shape for old versions", &["results::loopback_in_each_version"]),
    (
        "CHECK of 1.1.1 compares every address, in the wrong way: fails where it should not",
        &["static_ipam::check_compares_gateways"],
    ),
    ("hangs when it tries a busy file again", &["delegate::that_is_being_written_is_waited_for"]),
    ("waits for its delegate for ever", &["undo::a_delegate_that_never_ends_is_ended"]),
    (
        "counts ADD as done before it prints",
        &[
            "chain_undo::a_result_that_nobody_can_read_undoes_everything",
            "undo::a_result_that_nobody_can_read_undoes_everything",
        ],
    ),
    (
        "portmap finds bad values when it has made half, and leaves it",
        &["chain_undo::an_invalid_config_is_refused_with_nothing_done"],
    ),
    (
        "two interfaces of a container share what portmap and bandwidth make",
        &["chain_undo::del_takes_only_its_own_attachment"],
    ),
    (
        "what was made is found by what is in the pod, so a killed ADD leaves rules",
        &["undo::killed_at_any_moment_del_cleans_and_add_works"],
    ),
    ("dies at once and undoes nothing", &["undo::sigterm_undoes_everything"]),
    (
        "its bridge without a pod has no address, with which the kernel lets it join no VLAN",
        &["vlan_gateway::so_does_one_of_the_kind_vlan"],
    ),
    ("says: operation not supported", &["vlan::without_vlan_filtering_in_the_kernel_it_is_refused_with_nothing_done"]),
    (
        "tuning undoes nothing when a later step, or printing, fails",
        &[
            "tuning_link::whatever_fails_everything_is_as_before",
            "tuning_mac::a_failed_add_gives_the_filter_its_address_back",
            "tuning_sysctl::settings_for_all_links_are_set_back_on_each",
            "tuning_verbs::an_interface_that_is_not_there_is_named",
        ],
    ),
    (
        "tuning finds bad keys while it sets the others, and names the file only",
        &[
            "tuning_sysctl::one_that_fails_is_named_and_the_others_are_set_back",
            "tuning_sysctl::what_cannot_be_is_refused_before_anything_is_touched",
        ],
    ),
    (
        "a second ADD of tuning keeps the tuned values as if they were the originals",
        &[
            "tuning_link::a_second_add_keeps_the_originals",
            "tuning_link::a_second_add_that_fails_keeps_what_the_first_one_kept",
        ],
    ),
    (
        "tuning's backup says neither of which link nor of which network it is",
        &[
            "tuning_link::a_path_that_leads_to_another_pod_by_now_changes_nothing_there",
            "tuning_link::a_restarted_container_gets_nothing_of_its_predecessor",
            "tuning_verbs::two_attachments_of_one_file_name",
            "tuning_verbs::del_of_another_network_leaves_the_backup",
        ],
    ),
    (
        "tuning's backup stays where the namespace is gone, or where it cannot be read",
        &["tuning_link::a_backup_that_says_nothing_is_removed", "tuning_link::without_the_namespace_nothing_is_left"],
    ),
    ("tuning's DEL reads the whole config", &["tuning_link::del_needs_neither_a_valid_config_nor_the_result"]),
    (
        "CHECK of tuning compares texts, and minds every promiscuous mode",
        &["tuning_link::check_does_not_mind_who_else_looks", "tuning_sysctl::check_compares_what_values_mean"],
    ),
    ("CHECK of tuning looks for an interface of the name IFNAME", &["examples::tuning"]),
    (
        "tuning does not clear a list, and CHECK fails for empty values",
        &["tuning_sysctl::an_empty_value_leaves_a_setting_alone_and_clears_a_list"],
    ),
    ("CHECK of tuning reads what can only be written", &["tuning_sysctl::one_that_can_only_be_written_is_written"]),
    (
        "txQLen and the list of allowed sysctls came after 1.1.1",
        &[
            "tuning_link::the_queue_length_and_switching_off",
            "tuning_sysctl::a_line_of_the_list_that_cannot_be_read_is_named",
            "tuning_sysctl::the_list_of_allowed_ones",
        ],
    ),
    ("tuning makes slashes of the dots in the name", &["tuning_sysctl::an_interface_with_a_dot_in_its_name"]),
    (
        "tuning panics: assignment to entry in nil map",
        &["tuning_sysctl::args_without_a_sysctl_in_the_config", "tuning_verbs::no_config_makes_it_panic"],
    ),
    ("tuning changes a namesake on the host, too", &["tuning_verbs::only_the_pods_own_entry_gets_the_new_address"]),
    (
        "tuning of 1.1.1 has no GC and no STATUS",
        &[
            "tuning_verbs::a_stale_record_does_not_hide_what_the_reference_has_kept",
            "tuning_verbs::gc_removes_exactly_the_stale_backups_of_its_network",
            "tuning_verbs::gc_removes_what_a_killed_add_was_writing",
            "tuning_verbs::status_says_why_add_could_not_work",
        ],
    ),
    (
        "the spoof filter does not know of tuning's address",
        &[
            "tuning_mac::in_a_chain_behind_the_spoof_filter_the_pod_talks",
            "tuning_mac::the_filter_follows_and_goes_back",
        ],
    ),
    (
        "tuning leaves the host and IPv6 neighbours to find out by themselves",
        &[
            "tuning_mac::the_host_forgets_the_old_address_of_a_pod_that_says_nothing",
            "tuning_mac::whoever_knew_the_old_address_learns_of_the_new_one_at_once",
        ],
    ),
    (
        "firewall speaks 0.4.0 and 1.0.0 alone, without GC and STATUS",
        &[
            "firewall_life::a_chain_runs_under_cnitool",
            "firewall_life::a_pod_goes_silent_where_the_policy_drops_and_it_was_deleted",
            "firewall_life::a_result_is_needed_and_passes_through_in_every_version",
            "firewall_life::gc_takes_exactly_what_is_not_in_the_list",
            "firewall_life::status_says_whether_pods_could_be_let_in",
        ],
    ),
    ("has no chain of its own", &["firewall_backend::our_own_chain_may_be_given_the_policy_drop"]),
    (
        "needs iptables and ip6tables always, and starts them ten times",
        &[
            "firewall_backend::a_host_that_drops_nothing_needs_no_program",
            "firewall_backend::an_ipv4_pod_needs_no_ip6tables",
            "firewall_life::few_programs_are_started",
        ],
    ),
    (
        "does not look at what drops",
        &[
            "firewall_backend::an_unknown_chain_that_drops_is_named",
            "firewall_backend::backend_nftables_does_not_hide_that_iptables_drops",
            "firewall_backend::iptables_of_the_kernels_own_tables_is_seen_and_used",
            "firewall_firewalld::where_docker_drops_too_the_pod_is_let_in_at_both",
            "firewall_life::an_unknown_backend_is_taken_as_none_and_said",
        ],
    ),
    (
        "has no rule for what a published port sends",
        &[
            "firewall_backend::backend_iptables_has_its_rules_wherever_nothing_drops",
            "firewall_backend::the_chains_are_the_references",
            "firewall_backend::with_dockers_forward_policy_pods_pass",
            "firewall_policy::published_ports_of_policed_pods_are_reached_from_outside",
        ],
    ),
    ("looks, and then acts, without a lock", &["firewall_backend::sixteen_pods_at_once_have_one_jump"]),
    (
        "its rules and sources do not tell whose they are: without a result nothing goes, with it a newer pod's may",
        &[
            "firewall_firewalld::a_late_del_leaves_the_source_to_the_new_pod",
            "firewall_firewalld::del_knows_the_sources_without_a_result_or_the_same_config",
            "firewall_life::a_late_del_leaves_the_address_to_its_new_pod",
            "firewall_life::del_needs_neither_result_nor_namespace_nor_a_valid_config",
        ],
    ),
    (
        "a source that is in another zone is an error",
        &["firewall_firewalld::a_source_that_somebody_has_put_elsewhere_stays_there"],
    ),
    ("CHECK ignores firewalld's answer", &["firewall_firewalld::check_looks_at_the_answer"]),
    (
        "names neither the zone nor firewalld in its errors",
        &[
            "firewall_firewalld::a_zone_that_is_none_undoes_everything",
            "firewall_firewalld::without_it_the_host_decides_and_by_name_it_is_an_error",
        ],
    ),
    ("waits for the bus for ever", &["firewall_firewalld::a_bus_that_never_answers_is_not_waited_for_long"]),
    (
        "leaves what it made when it fails",
        &[
            "firewall_life::a_program_that_is_missing_or_fails_undoes_everything",
            "firewall_life::sigterm_undoes_everything",
        ],
    ),
    ("CHECK makes chains that are missing", &["firewall_life::check_sees_what_is_missing"]),
    (
        "ingressPolicy isolated came with 1.7",
        &[
            "examples::ingress_policy",
            "firewall_backend::two_backends_side_by_side_do_not_forbid_iptables_its_table",
            "firewall_life::an_add_that_fails_leaves_nothing",
            "firewall_life::killed_at_any_moment_del_cleans",
            "firewall_policy::a_pod_without_addresses_can_be_isolated",
            "firewall_policy::check_sees_what_is_missing_of_a_policy",
            "firewall_policy::isolated_keeps_siblings_out_too",
            "firewall_policy::isolated_pods_do_not_reach_each_other_by_way_of_the_gateway",
            "firewall_policy::policies_of_different_kinds_meet",
            "firewall_policy::the_last_pod_takes_its_bridge_with_it",
            "firewall_policy::the_stricter_policy_of_a_bridge_holds_while_it_has_pods",
        ],
    ),
    (
        "takes whatever it is given, and finds out late",
        &[
            "firewall_life::values_that_cannot_be_are_refused_with_nothing_done",
            "firewall_policy::what_is_no_bridge_is_refused_with_nothing_done",
        ],
    ),
    (
        "writes accept_ra of every bridge, and leaves it so",
        &[
            "hostile_pod::a_host_that_has_its_router_by_an_operators_bridge_keeps_it",
            "hostile_pod::an_add_that_fails_leaves_an_operators_bridge_as_it_was",
        ],
    ),
    (
        "names with a % become others, the host's own namespace is noticed after the fact, pods believe any router, and what \
         was renamed or moved stays",
        &[
            "hostile::interface_names_mean_nothing_to_rules_files_and_logs",
            "hostile::interface_names_mean_nothing_to_the_programs_of_iptables",
            "hostile::what_is_no_pods_namespace_is_refused_and_nobody_waits_for_it",
            "hostile_pod::a_pods_router_advertisements_give_its_neighbours_nothing",
            "hostile_pod::an_interface_that_was_moved_elsewhere_is_named_and_removed",
            "hostile_pod::check_names_what_a_pod_did_to_its_interface_and_del_cleans_up",
        ],
    ),
];
