<!-- two_of_a_union.pml:5:5: modules 'miami' and 'oslo' are of one union; expected one of them at most -->
<prompt schema="trip">
  <plan days="two">
    <miami/>
    <oslo/>
  </plan>
  Go on.
</prompt>
