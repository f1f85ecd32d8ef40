<!-- missing_length.pml:2:22: <parameter> has no length; expected <parameter length="…"> -->
<schema name="s">for <parameter name="days"/></schema>
