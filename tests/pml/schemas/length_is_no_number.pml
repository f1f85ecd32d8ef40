<!-- length_is_no_number.pml:3:3: length='ten'; expected a whole number from 1 to 999999999 -->
<schema name="s">
  <parameter name="a" length="ten"/>
</schema>
